-- The figures of a book (figures.lua) as an SVG of horizontal bars, a panel for each of PANELS.
--
-- The ground is transparent, and its colours are told apart on white and on black.
-- What this is not: interactive, or a drawing of everything; the tables have the rest.
local figures = require "report.figures"

local chart = {}

local WIDTH <const>, COLUMNS <const>, MARGIN <const> = 820, 2, 10
local PANEL_WIDTH <const> = (WIDTH - 2 * MARGIN) // COLUMNS
local TITLE_HEIGHT <const>, BAR_HEIGHT <const>, BAR_STEP <const> = 40, 15, 20
local NAME_WIDTH <const>, FIGURE_WIDTH <const> = 160, 68
local BAR_ROOM <const> = PANEL_WIDTH - NAME_WIDTH - FIGURE_WIDTH - MARGIN

local HEAD <const> = [[
<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img"
  aria-label="%s">
<style>
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #767c85 }
  .title { font-size: 15px; font-weight: bold }
  .name { text-anchor: end }
  .bar { fill: #8a94a0 }
  .floor { fill: #b9c0c8 }
  .ours { fill: #e5651f }
  text.ours { font-weight: bold }
</style>
]]

local function thousands(x)
  local k = x / 1000
  return k < 10 and ("%.1f k"):format(k) or figures.grouped(k) .. " k"
end

local PANELS <const> = {
  { "echo1", "messages_per_s", "Echo, 1 in flight, messages/s", thousands },
  { "echo16", "messages_per_s", "Echo, 16 in flight, messages/s", thousands },
  { "tls1", "messages_per_s", "TLS echo, 1 in flight, messages/s", thousands },
  { "tls16", "messages_per_s", "TLS echo, 16 in flight, messages/s", thousands },
  { "once", "messages_per_s", "Connect, serve, close, per second", thousands },
  { "idle", "rss_per_conn", "Idle connection, bytes (less is better)", figures.grouped, true },
}

local ESCAPES <const> = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }
local function escaped(text) return (text:gsub('[&<>"]', ESCAPES)) end

-- ---- what is drawn -------------------------------------------------------------------------

local function class_of(server, floor)
  if server.key:find "^lunewire" then return "ours" end
  return server.key == floor and "floor" or "bar"
end

-- The bars of a panel, the best first: a list of {title=, value=, class=}.
local function bars_of(book, scenario, field, less_is_better)
  local list, floor = {}, book.scenarios[scenario] and book.scenarios[scenario].floor
  for _, server in ipairs(book:servers_of(scenario)) do
    local value = book:median(scenario, server.key, field)
    if value then
      list[#list + 1] = { title = server.title, value = value, class = class_of(server, floor) }
    end
  end
  table.sort(list, function(a, b)
    if less_is_better then a, b = b, a end
    return a.value > b.value
  end)
  return list
end

-- Panels that have anything to show: a list of {title=, show=, bars=}.
local function panels_of(book)
  local list = {}
  for _, panel in ipairs(PANELS) do
    local scenario, field, title, show, less_is_better = table.unpack(panel)
    local bars = bars_of(book, scenario, field, less_is_better)
    if bars[1] then list[#list + 1] = { title = title, show = show, bars = bars } end
  end
  return list
end

local function height_of(panel) return TITLE_HEIGHT + #panel.bars * BAR_STEP + MARGIN end

-- ---- drawing -------------------------------------------------------------------------------

local function longest(bars)
  local most = 0
  for _, bar in ipairs(bars) do most = math.max(most, bar.value) end
  return math.max(most, 1)
end

local function draw_bar(out, bar, figure, x, y, width)
  local base = y + BAR_HEIGHT - 3
  local emphasis = bar.class == "ours" and " ours" or ""
  out(('<text class="name%s" x="%d" y="%d">%s</text>'):format(
    emphasis, x - 6, base, escaped(bar.title)))
  out(('<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>'):format(
    bar.class, x, y, width, BAR_HEIGHT))
  out(('<text class="figure%s" x="%.1f" y="%d">%s</text>'):format(
    emphasis, x + width + 6, base, escaped(figure)))
end

local function draw_panel(out, panel, x, y)
  local most = longest(panel.bars)
  out(('<text class="title" x="%d" y="%d">%s</text>'):format(x, y + 24, escaped(panel.title)))
  for i, bar in ipairs(panel.bars) do
    local width = math.max(bar.value / most * BAR_ROOM, 1)
    local top = y + TITLE_HEIGHT + (i - 1) * BAR_STEP
    draw_bar(out, bar, panel.show(bar.value), x + NAME_WIDTH, top, width)
  end
end

-- Places rows of panels below each other -> the height of all.
local function place(panels, draw)
  local y = MARGIN
  for first = 1, #panels, COLUMNS do
    local tallest = 0
    for i = first, math.min(first + COLUMNS - 1, #panels) do
      draw(panels[i], MARGIN + (i - first) * PANEL_WIDTH, y)
      tallest = math.max(tallest, height_of(panels[i]))
    end
    y = y + tallest
  end
  return y + MARGIN
end

-- out(text) takes each line.
function chart.print(book, out)
  local panels = panels_of(book)
  if not panels[1] then panels[1] = { title = "Not measured yet", bars = {} } end
  local height = place(panels, function() end)
  local label = "Bar charts of the speed and memory of lunewire beside other servers"
  out((HEAD:format(WIDTH, height, WIDTH, height, escaped(label)):gsub("\n$", "")))
  place(panels, function(panel, x, y) draw_panel(out, panel, x, y) end)
  out "</svg>"
end

return chart
