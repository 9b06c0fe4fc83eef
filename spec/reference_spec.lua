-- docs/reference.md, which ldoc makes of the comments beside the code, is up to date, and tells
-- everything of everything that the library exports, and of nothing else.
local assert = require "luassert"
local describe = require("busted").describe
local support = require "spec.support"
local wire = require "lunewire"

local conn_methods <const> = require("lunewire.core").conn_methods
local it = support.it

local function read_file(name)
  local file <close> = assert(io.open(name))
  return file:read "a"
end

-- ---- what the library exports ---------------------------------------------------------

-- What is public of a table, under its full names; tables in it are parts of the name.
local function add_public(names, prefix, t)
  for name, value in pairs(t) do
    if type(value) == "table" then
      add_public(names, prefix .. name .. ".", value)
    else
      names[prefix .. name] = value
    end
  end
end

-- One object of each kind that is made in Lua.
local function objects()
  local nobody = "127.0.0.1:1"
  return { Client = wire.client(nobody), Netlog = wire.netlog(nobody), Pool = wire.pool(nobody) }
end

-- Those of a connection, which a client has too, are told of there.
local function add_methods_in_lua(names)
  for noun, object in pairs(objects()) do
    for name, method in pairs(getmetatable(object).__index) do
      local own = not conn_methods[name] or noun ~= "Client" or name == "strerror"
      if type(method) == "function" and not name:find "^__" and own then
        names[noun .. ":" .. name] = method
      end
    end
  end
end

-- The methods of all kinds of objects: the core's metatables stand in the registry.
local function add_methods(names)
  for key, meta in pairs(debug.getregistry()) do
    local noun = type(key) == "string" and key:match "^lunewire%.(%u%w*)$"
    local methods = noun and rawget(meta, "__index")
    for name, method in pairs(type(methods) == "table" and methods or {}) do
      names[noun .. ":" .. name] = method
    end
  end
end

local function exported()
  local names = {}
  add_public(names, "wire.", wire)
  add_methods(names)
  add_methods_in_lua(names)
  return names
end

-- ---- what the reference says ----------------------------------------------------------

-- "- `name` (type): text", "- `name` (type, optional): text"
local function one_parameter(line)
  local name, kind, text = line:match "^%- `([%w_.]+)` %((.-)%): ?(.*)$"
  local type = kind:match "^(%S+), " or kind
  return { name = name, type = type, optional = type ~= kind, text = text }
end

-- "- **Returns** ..." and so on
local function read_facts(entry)
  entry.parameters = {}
  for line in entry.body:gmatch "[^\n]+" do
    local label, text = line:match "^%- %*%*([%a ]+)%*%* (.*)$"
    if label then entry[label] = text end
    if line:find "^%- `[%w_.]+` %(" then
      entry.parameters[#entry.parameters + 1] = one_parameter(line)
    end
  end
end

local function read_entry(text)
  local name, signature, body = text:match "^([^\n]+)\n\n%*%*`([^\n]+)`%*%*\n\n(.*)$"
  if not name then error("no entry: " .. text:sub(1, 60)) end
  local entry = { name = name, signature = signature, body = body }
  entry.is_function = signature:find("(", 1, true) ~= nil
  entry.summary = body:match "^[^-*`#\n][^\n]+"
  read_facts(entry)
  return entry
end

local reference = read_file "docs/reference.md"

-- The text after each heading of a level, up to the next one of that level or above.
local function parts(text, level)
  local list = {}
  local mark = "\n" .. ("#"):rep(level) .. " "
  local at = text:find(mark, 1, true)
  while at do
    local next_at = text:find(mark, at + 1, true)
    list[#list + 1] = text:sub(at + #mark, next_at)
    at = next_at
  end
  return list
end

local sections, entries = {}, {} -- by name
for _, section in ipairs(parts(reference, 2)) do
  sections[section:match "^[^\n]+"] = section
  for _, text in ipairs(parts(section, 3)) do
    local entry = read_entry(text)
    if entries[entry.name] then error("documented twice: " .. entry.name) end
    entries[entry.name] = entry
  end
end

local function functions()
  local list = {}
  for _, entry in pairs(entries) do
    if entry.is_function then list[#list + 1] = entry end
  end
  return ipairs(list)
end

-- ---- types ----------------------------------------------------------------------------

local LUA_TYPES <const> = { any = true, boolean = true, file = true, ["function"] = true,
  integer = true, ["nil"] = true, number = true, string = true, table = true, thread = true }

local function is_type(word)
  return LUA_TYPES[word] or sections[word] or word == "Framing" and sections["wire.framing"]
end

local function assert_types(entry, text)
  for word in text:gmatch "%a+" do
    assert.truthy(is_type(word), entry.name .. ": no type: " .. word)
  end
end

-- "string: text", "(1) string: text; (2) Conn: text", alternatives behind "**or**"
local function result_types(entry)
  local text = (" **or** " .. entry.Returns):gsub("%*%*or%*%* %f[^%s(]", "%0(1) ")
  return text:gsub("%(1%) nothing$", ""):gmatch "%(%d%) ([^%s:]+)"
end

-- ---- the specs ------------------------------------------------------------------------

describe("docs/reference.md", function()
  it("is what `make docs` makes of the comments", function()
    local name = os.tmpname()
    local output, status = support.peer(".ci/reference " .. name, 60):output()
    local made = read_file(name)
    os.remove(name)
    assert.are.same({ "", 0 }, { output, status })
    assert.is_true(made == reference, "out of date: run make docs")
  end, 60)

  it("has an entry for each name that the library exports", function()
    local missing, found = {}, 0
    for name in pairs(exported()) do
      found = found + 1
      if not entries[name] then missing[#missing + 1] = name end
    end
    table.sort(missing)
    assert.are.same({}, missing)
    assert.is_true(found > 80)
  end)

  it("has no entry for what does not exist", function()
    local names = exported()
    for name, entry in pairs(entries) do
      assert.are.equal(entry.is_function and "function" or "userdata", type(names[name]), name)
    end
  end)

  it("lists each entry in its index, with a link to a heading", function()
    local anchors, listed = {}, 0
    for heading in reference:gmatch "\n##+ ([^\n]+)" do
      anchors[heading:lower():gsub("[^%w_ -]", ""):gsub(" ", "-")] = true
    end
    for target in reference:gmatch "%]%(#([^)]+)%)" do
      listed = listed + 1
      assert.is_true(anchors[target], target)
    end
    local count = 0
    for _ in pairs(entries) do count = count + 1 end
    for _ in pairs(sections) do count = count + 1 end
    assert.are.equal(count, listed)
  end)

  it("tells of each entry what it is about", function()
    for name, entry in pairs(entries) do assert.is_string(entry.summary, name) end
  end)

  it("tells of each function what it returns and whether it waits", function()
    for _, entry in functions() do
      assert.is_string(entry.Returns, entry.name)
      assert.is_string(entry.Waits, entry.name)
    end
  end)

  it("tells of each parameter what it is, once", function()
    for _, entry in functions() do
      local seen = {}
      for _, parameter in ipairs(entry.parameters) do
        local text = entry.name .. ": " .. tostring(parameter.name)
        assert.is_nil(seen[parameter.name], text)
        assert.truthy(parameter.text and parameter.text ~= "", text)
        seen[parameter.name] = true
      end
      for word in entry.signature:match("%((.*)%)"):gmatch "[%w_.]+" do
        assert.is_true(seen[word], entry.name .. ": " .. word)
      end
    end
  end)

  it("names types of Lua, or those that it tells of", function()
    for _, entry in functions() do
      for _, parameter in ipairs(entry.parameters) do assert_types(entry, parameter.type) end
      for type in result_types(entry) do assert_types(entry, type) end
    end
  end)

  it("names only codes that its conventions or the system have", function()
    local known, found = {}, 0
    for code in sections.Conventions:gmatch "`(E%u+)`" do known[code] = true end
    for code in read_file "/usr/include/uv/errno.h":gmatch "UV__(E%u+)" do known[code] = true end
    for _, entry in functions() do
      for code in (entry["Fails with"] or ""):gmatch "%f[%w]E%u%u+" do
        found = found + 1
        assert.is_true(known[code], entry.name .. ": " .. code)
      end
    end
    assert.is_true(found > 80)
  end)
end)

-- ---- parameters and the code ------------------------------------------------------------

-- One object of each kind whose methods have parameters that must be given.
local makers = {
  Client = function() return objects().Client end,
  Netlog = function() return objects().Netlog end,
  Pool = function() return objects().Pool end,
  Channel = function() return wire.channel() end,
  Conn = function() return (wire.pipe()) end,
  Semaphore = function() return wire.semaphore(1) end,
  Server = function() return assert(wire.serve("127.0.0.1:0", function() end)) end,
  Task = function() return wire.spawn(function() end) end,
  Udp = function() return assert(wire.udp "127.0.0.1:0") end,
}

local function first_required(entry)
  local first = entry.parameters[1]
  return first and not first.optional and first.name ~= "..." and
    not first.type:find "%f[%a]nil%f[%A]"
end

local function declared_parameters(fn)
  local info, list = debug.getinfo(fn, "u"), {}
  for i = 1, info.nparams do list[i] = debug.getlocal(fn, i) end
  if info.isvararg then list[#list + 1] = "..." end
  if list[1] == "self" then table.remove(list, 1) end
  return list
end

local function documented_parameters(entry)
  local list = {}
  for i, parameter in ipairs(entry.parameters) do list[i] = parameter.name end
  return list
end

local function raises_without_arguments(name, fn)
  local noun = name:match "^(%u%w*):"
  local object = noun and makers[noun]()
  local ok = pcall(fn, object)
  if object and object.close then object:close() end
  return not ok
end

describe("the parameters in docs/reference.md", function()
  it("have the names and the order of those functions that are written in Lua", function()
    local names, found = exported(), 0
    for _, entry in functions() do
      local fn = names[entry.name]
      if debug.getinfo(fn, "S").what == "Lua" then
        found = found + 1
        assert.are.same(declared_parameters(fn), documented_parameters(entry), entry.name)
      end
    end
    assert.is_true(found > 0)
  end)

  it("cannot be left out unless it says so", function()
    local names, found = exported(), 0
    for _, entry in functions() do
      if first_required(entry) then
        found = found + 1
        local raised = raises_without_arguments(entry.name, names[entry.name])
        assert.is_true(raised, entry.name)
      end
    end
    assert.is_true(found > 20)
  end)
end)
