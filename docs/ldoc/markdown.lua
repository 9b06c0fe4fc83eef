-- Writes what ldoc read as one Markdown document: a filter of ldoc, called by .ci/reference.
-- What this is not: a parser of comments; that is ldoc.
--
-- An item's section is its noun (`Task:join` is of Task), or the `@type` above it in its file if
-- that divides the noun (`Conn.receiving`).  The text of a `@type` introduces its section.
local markdown = {}

-- Those that are not named here come last, by name.
local ORDER <const> = { "wire", "Conn", "Conn.receiving", "Conn.sending", "Server", "Client",
  "Pool", "Netlog", "wire.framing", "Task", "Timer", "Signal", "Channel", "Semaphore", "wire.co" }

-- ---- texts --------------------------------------------------------------------------

-- "?number" may be nil.
local function type_of(text)
  return text == "" and "any" or (text:gsub("^%?(.+)$", "%1|nil"))
end

local function one_line(text) return (text:gsub("%s+", " "):gsub("^ ", ""):gsub(" $", "")) end

-- Lists in a text go one level deeper than the text itself.
local function with_list(text)
  return (one_line(text:gsub("\n%s*%- ", "\0")):gsub(" ?\0", "\n  - "))
end

-- Comments stand one space behind what marks them.
local function paragraphs(text)
  return (("\n" .. text):gsub("\n ", "\n"):gsub("^%s+", ""):gsub("%s+$", ""))
end

local function anchor(title) return (title:lower():gsub("[^%w_ -]", ""):gsub(" ", "-")) end

local function title_of(section)
  local noun, part = section:match "^(%u%w*)%.(.*)$"
  return noun and noun .. ": " .. part or section
end

local function short_name(name) return name:match "[^.:]+$" end

-- ---- one entry ----------------------------------------------------------------------

local function signature(item)
  if item.type ~= "function" then return item.name end
  local name = item.name:gsub("^%u%w*:", string.lower)
  return name .. item.args:gsub("=[^%],]+", "")
end

local function parameter(item, name)
  local default = item:default_of_param(name)
  local optional = default and ", optional" or ""
  if type(default) == "string" then optional = (", default `%s`"):format(default) end
  return ("- `%s` (%s%s): %s"):format(name, type_of(item:type_of_param(name)), optional,
    with_list(item.params.map[name] or ""))
end

-- Groups of results are alternatives.
local function results(item)
  local groups = {}
  for _, group in ipairs(item.retgroups or {}) do
    local list = {}
    for i, result in ipairs(group) do
      local text = one_line(result.text)
      local number = #group > 1 and ("(%d) "):format(i) or ""
      list[i] = number .. type_of(result.type) .. (text == "" and "" or ": " .. text)
    end
    groups[#groups + 1] = table.concat(list, "; ")
  end
  return groups[1] and table.concat(groups, " **or** ") or "nothing"
end

local function fact(label, texts)
  if type(texts) == "table" then texts = table.concat(texts, " ") end
  return texts and ("- **%s** %s"):format(label, one_line(texts))
end

local function facts(item)
  local list = {}
  for _, name in ipairs(item.params) do list[#list + 1] = parameter(item, name) end
  if item.type ~= "function" then return list end
  list[#list + 1] = fact("Returns", results(item))
  list[#list + 1] = fact("Fails with", item.tags.codes)
  list[#list + 1] = fact("Waits", item.tags.waits)
  list[#list + 1] = fact("Raises", item.raise)
  list[#list + 1] = fact("Follows", item.tags.follows)
  return list
end

local function entry(item)
  local parts = { "### " .. item.name, "**`" .. signature(item) .. "`**",
    paragraphs(item.summary .. item.description) }
  local list = facts(item)
  if list[1] then parts[#parts + 1] = table.concat(list, "\n") end
  for _, usage in ipairs(item.usage or {}) do
    parts[#parts + 1] = "```lua\n" .. paragraphs(usage) .. "\n```"
  end
  return table.concat(parts, "\n\n")
end

-- ---- sections -----------------------------------------------------------------------

local function section_of(item)
  local noun = item.name:match "^(.*)[.:]"
  local part = item.section:match "^Class (.*)$"
  return part and part:find("^" .. noun .. "%.") and part or noun
end

-- -> {name = {intro=, items=}}
local function gather(modules)
  local sections = setmetatable({}, { __index = function(t, name)
    t[name] = { items = {} }
    return t[name]
  end })
  for _, mod in ipairs(modules) do
    for _, item in ipairs(mod.items) do
      local items = sections[section_of(item)].items
      items[#items + 1] = item
    end
    for _, type in ipairs(mod.sections) do
      sections[type.name].intro = paragraphs(type.summary .. type.description)
    end
  end
  return sections
end

local function in_order(sections)
  local rank, names = {}, {}
  for i, name in ipairs(ORDER) do rank[name] = i end
  for name in pairs(sections) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    local x, y = rank[a] or #ORDER + 1, rank[b] or #ORDER + 1
    if x ~= y then return x < y end
    return a < b
  end)
  return names
end

local function index_line(name, section)
  local title, links = title_of(name), {}
  for i, item in ipairs(section.items) do
    links[i] = ("[%s](#%s)"):format(short_name(item.name), anchor(item.name))
  end
  return ("- **[%s](#%s)** %s"):format(title, anchor(title), table.concat(links, " · "))
end

-- The module that carries the name of the library tells the conventions; it comes first.
local function sorted(modules)
  local list = { table.unpack(modules) }
  table.sort(list, function(a, b)
    if (a.name == "lunewire") ~= (b.name == "lunewire") then return a.name == "lunewire" end
    return a.name < b.name
  end)
  return list
end

-- The module's text, before and from its first heading.
local function front_matter(mod)
  local text = paragraphs(mod.summary .. mod.description)
  local heading = text:find("\n## ", 1, true)
  return paragraphs(text:sub(1, heading)), text:sub(heading + 1)
end

function markdown.write(modules)
  modules = sorted(modules)
  local sections = gather(modules)
  local names = in_order(sections)
  local index, parts = {}, {}
  for i, name in ipairs(names) do
    local section = sections[name]
    index[i] = index_line(name, section)
    parts[#parts + 1] = "## " .. title_of(name)
    parts[#parts + 1] = section.intro
    for _, item in ipairs(section.items) do parts[#parts + 1] = entry(item) end
  end
  local intro, conventions = front_matter(modules[1])
  io.write("# Reference\n\n<!-- made by `make docs` of the comments beside the code -->\n\n",
    intro, "\n\n- **[Conventions](#conventions)**\n", table.concat(index, "\n"), "\n\n",
    conventions, "\n\n", table.concat(parts, "\n\n"), "\n")
end

return markdown
