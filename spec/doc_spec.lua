-- What the documents show is run, and what they name exists.
--
-- Lua snippets print what stands behind their `-->` marks.  README.md: the first one is a whole
-- script, a server; the others are one session, run one after the other while that server serves.
-- docs/guide.md, docs/guide-transports.md: each one is run alone.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"

local it = support.it

local REQUIRE <const> = 'local wire = require "lunewire"\n'
local ADDRESS <const> = "127.0.0.1:8999"

local function read_file(name)
  local file <close> = assert(io.open(name))
  return file:read "a"
end

-- The fenced blocks of a language: a list of {text=, line=}.
local function snippets(document, language)
  local list, line = {}, 0
  local current
  for text in read_file(document):gmatch "([^\n]*)\n" do
    line = line + 1
    if current and text == "```" then
      current = nil
    elseif current then
      current.text = current.text .. text .. "\n"
    elseif text == "```" .. language then
      current = { text = "", line = line + 1 }
      list[#list + 1] = current
    end
  end
  return list
end

local function lines_in(text) return select(2, text:gsub("\n", "")) end

local function is_whole(snippet) return snippet.text:sub(1, #REQUIRE) == REQUIRE end

local function with_single_spaces(text)
  return (text:gsub("%s+", " "):gsub("^ ", ""):gsub(" $", ""))
end

-- What a text says that it prints: one entry for each mark.
local function marks(text)
  local list = {}
  for mark in text:gmatch "%-%->([^\n]*)" do list[#list + 1] = with_single_spaces(mark) end
  return list
end

-- Those lines of an output that are marks, in order: it may print more than the marks say.
local function marked_lines(output, expected)
  local list = {}
  for line in output:gmatch "[^\n]+" do
    line = with_single_spaces(line)
    if line == expected[#list + 1] then list[#list + 1] = line end
  end
  return list
end

-- The snippets as one text, each at its line of the document, so that errors name that.
local function joined(list, first)
  local text, line = "", 1
  for i = first, #list do
    text = text .. ("\n"):rep(list[i].line - line) .. list[i].text
    line = list[i].line + lines_in(list[i].text)
  end
  return text
end

-- Runs a script as it stands, but serves on a port that is free, prints it, and stops listening
-- at the first connection, so that the script ends.
local ONE_CONNECTION <const> = [[
local wire = require "lunewire"
local serve = wire.serve
function wire.serve(address, handler)
  assert(address == %q)
  local server = serve("127.0.0.1:0", function(conn, server)
    server:close()
    return handler(conn, server)
  end)
  print(server:port())
  io.stdout:flush()
  return server
end
assert(load(%q, "=snippet"))()
]]

local SESSION <const> = [[
wire = require "lunewire"
assert(load(%q, "=%s"))()
]]

local function start_serving(snippet)
  local server = support.lua(ONE_CONNECTION:format(ADDRESS, snippet.text))
  return server, "127.0.0.1:" .. server:line()
end

local function assert_ended_well(server)
  local output, status = server:output()
  assert.are.same({ "", 0 }, { output, status })
end

-- Runs a text of a document -> nothing; fails unless it prints what its marks say, in order.
local function assert_keeps_word(document, text)
  local expected = marks(text)
  local output, status = support.lua(SESSION:format(text, document)):output()
  assert.are.same(expected, marked_lines(output, expected), output)
  assert.are.equal(0, status, output)
  return #expected
end

local function assert_echoes(script)
  assert.is_true(is_whole(script))
  assert.is_true(lines_in(script.text) < 20)
  local server, address = start_serving(script)
  local nc = support.peer("printf 'hello\\n' | nc -q1 " .. address:gsub(":", " "))
  assert.are.equal("> hello\n", (nc:output()))
  assert_ended_well(server)
end

describe("README.md", function()
  local all = snippets("README.md", "lua")
  local script = assert(all[1])

  it("has a session that prints what its marks say", function()
    local server, address = start_serving(script)
    local text = joined(all, 2):gsub(ADDRESS, address)
    assert.is_true(assert_keeps_word("README.md", text) > 0)
    assert_ended_well(server)
  end, 20)

  it("begins with a server of less than twenty lines, which echoes lines to nc", function()
    assert_echoes(script)
  end)

  it("names only targets that the Makefile has", function()
    local makefile, readme = read_file "Makefile", read_file "README.md"
    local found = 0
    for _, pattern in ipairs { "`make ([%l-]+)", "\nmake ([%l-]+)" } do
      for target in readme:gmatch(pattern) do
        found = found + 1
        assert.truthy(makefile:find("\n" .. target .. ":", 1, true), target)
      end
    end
    assert.is_true(found >= 5)
  end)
end)

describe("docs/guide.md", function()
  local GUIDE <const> = "docs/guide.md"
  local all = snippets(GUIDE, "lua")
  local found = 0

  it("begins with a server of less than twenty lines, which echoes lines to nc", function()
    assert_echoes(assert(all[1]))
  end)

  for i = 2, #all do
    it("prints what the marks of its snippet in line " .. all[i].line .. " say", function()
      found = found + assert_keeps_word(GUIDE, joined({ all[i] }, 1))
    end)
  end

  it("has such marks", function() assert.is_true(found >= 40) end)
end)

describe("docs/guide-transports.md", function()
  local GUIDE <const> = "docs/guide-transports.md"
  local found = 0

  for _, snippet in ipairs(snippets(GUIDE, "lua")) do
    it("prints what the marks of its snippet in line " .. snippet.line .. " say", function()
      found = found + assert_keeps_word(GUIDE, joined({ snippet }, 1))
    end)
  end

  it("has such marks", function() assert.is_true(found >= 30) end)
end)

-- ---- names --------------------------------------------------------------------------

-- What stands in backquotes outside the fenced blocks.
local function quoted(document)
  local text = read_file(document):gsub("\n```.-\n```", "")
  return text:gmatch "`([^`\n]+)`"
end

local function succeeds(command)
  return os.execute("( " .. command .. " ) >/dev/null 2>&1") == true
end

-- Not what is built.
local function is_a_source(name)
  return name:find "^[%w_*][%w_*/.]+$" and not name:find "^build/" and
    (name:find "^%l+/" or name:find "%.[ch]$" or name:find "%.lua$")
end

-- A file, with or without its folder and with wildcards.
local function file_exists(name)
  if name:find "/" then return succeeds("ls -d " .. name) end
  return succeeds(("ls -d %s */%s */*/%s | grep -q ."):format(name, name, name))
end

local function in_the_source(word)
  return succeeds(("grep -rqw -e '%s' csrc lua"):format(word))
end

local DOCUMENTS <const> = {
  "README.md", "docs/guide.md", "docs/guide-transports.md", "docs/coming-from.md",
  "docs/internals.md",
}

for _, document in ipairs(DOCUMENTS) do
  describe(document, function()
    it("names only files that exist", function()
      for name in quoted(document) do
        if is_a_source(name) then assert.is_true(file_exists(name), name) end
      end
    end)
  end)
end

describe("docs/internals.md", function()
  it("names only functions, fields and constants that the source has", function()
    local found = 0
    for name in quoted "docs/internals.md" do
      local word = name:match "^struct ([%l_]+)$" or name:match "^([%a_]+_[%a_]+)%(?%)?$"
      if word then
        found = found + 1
        assert.is_true(in_the_source(word), name)
      end
    end
    assert.is_true(found > 20)
  end)
end)
