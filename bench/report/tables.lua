-- The tables, in Markdown, of a book of figures (figures.lua).
-- What this is not: it knows no servers and no scenarios but those in the book.
local figures = require "report.figures"
local targets = require "report.targets"

local tables = {}

local NONE <const> = "–"
local LONG <const> = 1024 -- bytes: messages from here on are told in MB/s too
local MUCH <const> = 0.1  -- of its time: who waits longer for its core is disturbed
local FEW <const> = 3     -- rounds: fewer judge nothing

-- ---- cells -------------------------------------------------------------------------------

local function formatted(pattern)
  return function(x) return pattern:format(x) end
end

local function percent(x) return ("%.0f %%"):format(100 * x) end

local function shown(value, show)
  if not value then return NONE end
  return show(value)
end

local function row(cells) return "| " .. table.concat(cells, " | ") .. " |" end

-- columns: a list of {head=, cell=function(server)}; the first is text, the others numbers.
local function print_table(out, columns, list)
  local heads, rules = {}, {}
  for i, column in ipairs(columns) do
    heads[i], rules[i] = column.head, column.text and "---" or "---:"
  end
  out(row(heads))
  out("|" .. table.concat(rules, "|") .. "|")
  for _, entry in ipairs(list) do
    local cells = {}
    for i, column in ipairs(columns) do cells[i] = column.cell(entry) end
    out(row(cells))
  end
  out ""
end

-- ---- columns -----------------------------------------------------------------------------

local function server_column()
  return { head = "server", text = true, cell = function(server) return server.title end }
end

local function median_column(book, scenario, head, field, show)
  return { head = head, cell = function(server)
    return shown(book:median(scenario.key, server.key, field), show)
  end }
end

local function floor_column(book, scenario, field)
  return { head = "of the floor", cell = function(server)
    local floor = { scenario.key, scenario.floor }
    return shown(book:ratio(field, { scenario.key, server.key }, floor), formatted "%.2f")
  end }
end

-- Why there is no figure stands in the place of the first one.
local function or_absent(book, scenario, column)
  local cell = column.cell
  function column.cell(server)
    return book:absent(scenario.key, server.key) or cell(server)
  end
  return column
end

local function is_long(book, scenario)
  return (book:median(scenario.key, scenario.floor, "size") or 0) >= LONG
end

local function rate_columns(book, scenario)
  local function median(...) return median_column(book, scenario, ...) end
  local whole, exact = formatted "%.0f", formatted "%.2f"
  local columns = {
    server_column(),
    or_absent(book, scenario, median("messages/s", "messages_per_s", figures.grouped)),
    floor_column(book, scenario, "messages_per_s"),
    median("p50 µs", "p50_us", whole),
    median("p99 µs", "p99_us", whole),
    median("CPU µs a message", "cpu_us", exact),
    floor_column(book, scenario, "cpu_us"),
    median("waited", "waited", percent),
  }
  if is_long(book, scenario) then
    table.insert(columns, 3, median("MB/s", "mb_per_s", figures.grouped))
  end
  return columns
end

local function memory_columns(book, scenario)
  local function median(...) return median_column(book, scenario, ...) end
  return {
    server_column(),
    or_absent(book, scenario, median("resident bytes", "rss_per_conn", figures.grouped)),
    median("proportional bytes", "pss_per_conn", figures.grouped),
  }
end

-- ---- scenarios -----------------------------------------------------------------------------

local function is_memory(book, scenario)
  for _, server in ipairs(book:servers_of(scenario.key)) do
    if book:median(scenario.key, server.key, "rss_per_conn") then return true end
  end
  return false
end

-- A server that does not have the mode at all is named below the table only.
local function split_unsupported(book, scenario)
  local rows, without = {}, {}
  for _, server in ipairs(book:servers_of(scenario.key)) do
    if book:absent(scenario.key, server.key) == "unsupported" then
      without[#without + 1] = server.title
    else
      rows[#rows + 1] = server
    end
  end
  return rows, without
end

local function print_scenario(out, book, scenario)
  local rows, without = split_unsupported(book, scenario)
  if not rows[1] then return end
  local columns = is_memory(book, scenario) and memory_columns or rate_columns
  out("### " .. scenario.title)
  out ""
  print_table(out, columns(book, scenario), rows)
  if without[1] then
    out("Without it: " .. table.concat(without, ", ") .. ".")
    out ""
  end
end

-- ---- scale, targets, what it ran on ------------------------------------------------------------

local SCALE <const> = {
  { "timers_idle", "a loop asleep, with %s timers armed; with none", "%.0f µs in %g s" },
  { "timers_echo", "a package echoed, with %s timers armed; with none", "%.2f µs" },
  { "channels", "a message passed to one of %s waiting tasks; of 64", "%.2f µs" },
}

local function print_scale(out, book)
  local rows = {}
  for _, entry in ipairs(SCALE) do
    local fields = book.scale[entry[1]]
    local what, show = entry[2], entry[3]
    rows[#rows + 1] = fields and {
      what = what:format(figures.grouped(fields.count)),
      many = show:format(fields.cpu, fields.seconds),
      base = show:format(fields.base_cpu, fields.seconds),
    }
  end
  if not rows[1] then return end
  out "### Many timers, many tasks"
  out ""
  print_table(out, {
    { head = "CPU of", text = true, cell = function(r) return r.what end },
    { head = "with many", cell = function(r) return r.many end },
    { head = "with none or few", cell = function(r) return r.base end },
  }, rows)
end

local function joined(parts, field)
  local texts = {}
  for i, part in ipairs(parts) do texts[i] = part[field] end
  return table.concat(texts, "; ")
end

local function print_targets(out, book)
  if book.setup.rounds < FEW then return end
  out "### Targets"
  out ""
  print_table(out, {
    { head = "what", text = true, cell = function(r) return r.what end },
    { head = "target", text = true, cell = function(r) return r.target end },
    { head = "figure", text = true, cell = function(r) return joined(r.parts, "text") end },
    { head = "met", text = true, cell = function(r) return joined(r.parts, "met") end },
  }, targets.judge(book))
end

-- The share of its time that a floor was ready to run and did not, in the scenario where that was
-- most.  Floors have one thread, so that nobody of their own is in the way.
local function most_waited(book)
  local most = 0
  for _, scenario in ipairs(book.scenarios) do
    most = math.max(most, book:median(scenario.key, scenario.floor, "waited") or 0)
  end
  return most
end

local function print_disturbance(out, book)
  local most = most_waited(book)
  out(("A floor waited for its core at most %s of its time.%s"):format(percent(most),
    most > MUCH and " That is much: others used it, and the figures are not to be trusted." or ""))
  out ""
end

local function print_machine(out, book)
  local texts, seen = {}, {}
  for _, version in ipairs(book.versions) do
    if not seen[version.text] then texts[#texts + 1] = version.text end
    seen[version.text] = true
  end
  out("Machine: " .. book.machine .. ".")
  out("Versions: " .. table.concat(texts, "; ") .. ".")
end

local function print_setup(out, book)
  local setup = book.setup
  if setup.rounds == 1 then
    out(("One round, %g s each: shows that the replies are right, and says little of speed.")
      :format(setup.seconds))
  else
    out(("Medians of %d interleaved rounds, %g s each."):format(setup.rounds, setup.seconds))
  end
  out(book.pinning)
  out ""
end

-- All of it; out(line) takes each line.
function tables.print(book, out)
  print_setup(out, book)
  for _, scenario in ipairs(book.scenarios) do print_scenario(out, book, scenario) end
  print_scale(out, book)
  print_disturbance(out, book)
  print_targets(out, book)
  print_machine(out, book)
end

return tables
