-- Prints the tables of a file of results that bench/run left:
--
--   report.lua RESULTS [--svg FILE] [--write DOCUMENT]
--
--   --svg      draws the charts into FILE
--   --write    puts the tables into DOCUMENT, between its two marks, instead of printing them
--
-- What this is not: a measurement; the same results give the same report.
package.path = (arg[0]:match "^(.*/)" or "./") .. "?.lua;" .. package.path
local chart = require "report.chart"
local figures = require "report.figures"
local tables = require "report.tables"

local BEGIN <const>, END <const> = "<!-- begin of what bench/run --write wrote -->\n",
  "<!-- end of what bench/run --write wrote -->\n"

local function fail(...)
  io.stderr:write("report.lua: ", ...)
  io.stderr:write "\n"
  os.exit(1)
end

local function open(name, mode)
  local file, why = io.open(name, mode)
  return file or fail(why)
end

local function read_file(name)
  local file <close> = open(name)
  return file:read "a"
end

local function write_file(name, text)
  local file <close> = open(name, "w")
  assert(file:write(text))
end

local function read_book(name)
  local file <close> = open(name)
  local ok, book = pcall(figures.read, file:lines())
  return ok and book or fail(name, ": ", book)
end

-- What a printer (chart.print, tables.print) prints, as one text.
local function text_of(print_book, book)
  local lines = {}
  print_book(book, function(line) lines[#lines + 1] = line end)
  return table.concat(lines, "\n") .. "\n"
end

local function replace_block(name, block)
  local text = read_file(name)
  local _, first = text:find(BEGIN, 1, true)
  local last = first and text:find(END, first, true)
  if not last then fail(name, ": the marks are missing") end
  write_file(name, text:sub(1, first) .. block .. text:sub(last))
end

local function arguments()
  local options = {}
  local i = 1
  while arg[i] do
    local option = arg[i]:match "^%-%-(%l+)$"
    if option then
      if option ~= "svg" and option ~= "write" then fail("there is no --", option) end
      options[option] = arg[i + 1] or fail("--", option, " needs a file")
      i = i + 1
    else
      options.results = arg[i]
    end
    i = i + 1
  end
  return options.results and options or fail "which file of results?"
end

local options = arguments()
local book = read_book(options.results)
if options.svg then write_file(options.svg, text_of(chart.print, book)) end
if options.write then
  replace_block(options.write, text_of(tables.print, book))
else
  io.write(text_of(tables.print, book))
end
