-- What bench/run left in its file of results, and the medians and ratios of it.  A line begins
-- with a word that says what it is:
--
--   setup KEY=VALUE…                          rounds, seconds
--   pinning TEXT                              which cores the programs had
--   machine TEXT
--   version SERVER TEXT
--   server SERVER TITLE
--   scenario SCENARIO FLOOR TITLE             FLOOR is the server that others are compared with
--   result scenario= server= round= KEY=VALUE…
--   absent SCENARIO SERVER WHY                it was to be measured and was not
--   scale KEY=VALUE…
--
-- What this is not: it prints nothing.
local figures = {}

local Book = {}
Book.__index = Book

-- Of an even number the upper one, so that it is one that was measured; nil of none.
function figures.median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  return sorted[#sorted // 2 + 1]
end

-- "1,234,567"
function figures.grouped(number)
  local text = ("%.0f"):format(number)
  return (text:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", ""))
end

-- ---- reading -----------------------------------------------------------------------------

local function pairs_of(text)
  local fields = {}
  for key, value in text:gmatch "(%S-)=(%S*)" do fields[key] = tonumber(value) or value end
  return fields
end

-- What follows from the counters of the server's process.
local function derive(result)
  if (result.cpu_ns or 0) <= 0 then return end -- not a kernel that counts it
  if result.messages > 0 then result.cpu_us = result.cpu_ns / 1e3 / result.messages end
  local ready = result.cpu_ns + result.waited_ns
  result.waited = ready > 0 and result.waited_ns / ready or 0
end

local function cell(book, scenario, server)
  local id = scenario .. " " .. server
  book.cells[id] = book.cells[id] or { results = {} }
  return book.cells[id]
end

local function add_named(list, key, title, more)
  local entry = more or {}
  entry.key, entry.title = key, title
  list[#list + 1] = entry
  list[key] = entry
end

local read = {}

function read.setup(book, text) book.setup = pairs_of(text) end

function read.pinning(book, text) book.pinning = text end

function read.machine(book, text) book.machine = text end

function read.version(book, text)
  local server, version = text:match "^(%S+) (.+)$"
  book.versions[#book.versions + 1] = { server = server, text = version }
end

function read.server(book, text) add_named(book.servers, text:match "^(%S+) (.+)$") end

function read.scenario(book, text)
  local key, floor, title = text:match "^(%S+) (%S+) (.+)$"
  add_named(book.scenarios, key, title, { floor = floor })
end

function read.result(book, text)
  local result = pairs_of(text)
  derive(result)
  cell(book, result.scenario, result.server).results[result.round] = result
end

function read.absent(book, text)
  local scenario, server, why = text:match "^(%S+) (%S+) (.+)$"
  cell(book, scenario, server).absent = why
end

function read.scale(book, text)
  local fields = pairs_of(text)
  book.scale[fields.name] = fields
end

-- lines: an iterator, as of file:lines().
function figures.read(lines)
  local book = setmetatable({
    setup = {}, pinning = "", machine = "", versions = {},
    servers = {}, scenarios = {}, cells = {}, scale = {},
  }, Book)
  for line in lines do
    local kind, rest = line:match "^(%l+) (.*)$"
    if not (read[kind] and pcall(read[kind], book, rest)) then
      error("not a line of results: " .. line, 0)
    end
  end
  return book
end

-- ---- asking ------------------------------------------------------------------------------

-- Why a server has no results in a scenario; nil if it has, or was not to be measured.
function Book:absent(scenario, server) return cell(self, scenario, server).absent end

-- The results of a server in a scenario, by round; empty if there are none.
function Book:results(scenario, server)
  local found = cell(self, scenario, server)
  return found.absent and {} or found.results
end

function Book:is_measured(scenario, server) return next(self:results(scenario, server)) ~= nil end

-- nil if no result has the field.
function Book:median(scenario, server, field)
  local list = {}
  for _, result in pairs(self:results(scenario, server)) do
    list[#list + 1] = tonumber(result[field])
  end
  return figures.median(list)
end

-- The median of what one is of the other in the same round.  one, other: {scenario, server}.
-- nil if they have no round in common.
function Book:ratio(field, one, other)
  local list, base = {}, self:results(table.unpack(other))
  for round, result in pairs(self:results(table.unpack(one))) do
    local a, b = result[field], base[round] and base[round][field]
    if a and b and b > 0 then list[#list + 1] = a / b end
  end
  return figures.median(list)
end

-- The servers with a result, or a reason for having none, in the order of the file.
function Book:servers_of(scenario)
  local list = {}
  for _, server in ipairs(self.servers) do
    local known = self:is_measured(scenario, server.key) or self:absent(scenario, server.key)
    if known then list[#list + 1] = server end
  end
  return list
end

return figures
