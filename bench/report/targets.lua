-- What lunewire is to reach, and whether the figures of a book (figures.lua) say that it does.
--
-- Most targets are ratios to a floor in C in the same run.  Two ways of running lunewire are
-- judged: with Lua's default garbage collection, which decides, and with the generational one.
-- What this is not: a gate; nothing fails because a target is missed.
local figures = require "report.figures"

local targets = {}

local PLAIN <const>, GENERATIONAL <const> = "lunewire", "lunewire-gen"
local TIMER_CPU <const> = 0.001 -- of a core: what counts as measurable

local function at_least(limit) return function(x) return x >= limit end end
local function at_most(limit) return function(x) return x <= limit end end

local function rounded(x) return ("%.2f"):format(x) end

-- ---- one figure of both ways ---------------------------------------------------------------
-- A part of a target's figure: {text=, met=}.

local UNKNOWN <const> = { text = "–", met = "not measured" }

-- Which of both meet it -> "yes", "with generational GC", or "no".
local function verdict(plain, generational, meets)
  if plain and meets(plain) then return "yes" end
  if generational and meets(generational) then return "with generational GC" end
  return "no"
end

local function judge(plain, generational, meets, show)
  if not (plain or generational) then return UNKNOWN end
  local text = plain and show(plain) or "–"
  if generational then text = ("%s (generational GC %s)"):format(text, show(generational)) end
  return { text = text, met = verdict(plain, generational, meets) }
end

-- value(book, server) -> number or nil
local function figure(value, meets, show)
  return function(book)
    return judge(value(book, PLAIN), value(book, GENERATIONAL), meets, show or rounded)
  end
end

local function rate_of_floor(scenario, floor)
  return function(book, server)
    return book:ratio("messages_per_s", { scenario, server }, { scenario, floor })
  end
end

local function memory(scenario)
  return function(book, server) return book:median(scenario, server, "rss_per_conn") end
end

local function cost(many, few)
  return function(book, server) return book:ratio("cpu_us", { many, server }, { few, server }) end
end

-- A target with a step on the way to it.
local function with_step(part, step)
  return function(book)
    local whole, first = part(book), step(book)
    if whole.met ~= "no" or first.met == "no" then return whole end
    return { text = whole.text, met = "first step: " .. first.met }
  end
end

-- ---- the peers ------------------------------------------------------------------------------

local LOADS <const> = { "echo1", "echo16", "big", "echo1k", "tls1", "tls16", "tlsbig" }
local NO_PEER <const> = {
  epoll = true, uv = true, epoll_tls = true, ["epoll_tls-ahead"] = true,
  [PLAIN] = true, [GENERATIONAL] = true,
}

-- All peers in all loads: a list of {peer=, load=, ratio= of its rate to ours}, the best first.
local function standings(book, ours)
  local list = {}
  for _, load in ipairs(LOADS) do
    for _, server in ipairs(book.servers) do
      local ratio = not NO_PEER[server.key] and
        book:ratio("messages_per_s", { load, server.key }, { load, ours })
      if ratio then list[#list + 1] = { peer = server.title, load = load, ratio = ratio } end
    end
  end
  table.sort(list, function(a, b) return a.ratio > b.ratio end)
  return list
end

local function tell(standing)
  return ("%s %s × ours in %s"):format(standing.peer, rounded(standing.ratio), standing.load)
end

-- Those ahead, or, if there is none, the one that comes nearest.
local function tell_ahead(list)
  local texts = {}
  for _, standing in ipairs(list) do
    if standing.ratio >= 1 then texts[#texts + 1] = tell(standing) end
  end
  return texts[1] and table.concat(texts, ", ") or "nearest: " .. tell(list[1])
end

local function peers(book)
  local plain, generational = standings(book, PLAIN), standings(book, GENERATIONAL)
  local shown = plain[1] and plain or generational
  if not shown[1] then return UNKNOWN end
  local function best(list) return list[1] and list[1].ratio end
  local met = verdict(best(plain), best(generational), function(x) return x < 1 end)
  return { text = tell_ahead(shown), met = met }
end

-- ---- timers -----------------------------------------------------------------------------------

local function timers(book)
  local idle = book.scale.timers_idle
  if not idle then return UNKNOWN end
  local share = (idle.cpu - idle.base_cpu) / (idle.seconds * 1e6)
  local text = ("%.2f ms of CPU in %g s, without timers %.2f ms"):format(
    idle.cpu / 1e3, idle.seconds, idle.base_cpu / 1e3)
  return { text = text, met = share < TIMER_CPU and "yes" or "no" }
end

-- ---- the list ---------------------------------------------------------------------------------

local ECHO16 <const> = rate_of_floor("echo16", "uv")

local LIST <const> = {
  { "echo, 1 in flight, against libuv in C in the same run", "≥ 0.95",
    figure(rate_of_floor("echo1", "uv"), at_least(0.95)) },
  { "echo, 16 in flight, against libuv in C", "≥ 0.65; first step 0.58",
    with_step(figure(ECHO16, at_least(0.65)), figure(ECHO16, at_least(0.58))) },
  { "any peer, any of these loads", "behind us", peers },
  { "TLS echo against the OpenSSL floor", "≥ 1.0 at depth 1, ≥ 0.75 at depth 16",
    figure(rate_of_floor("tls1", "epoll_tls"), at_least(1.0)),
    figure(rate_of_floor("tls16", "epoll_tls"), at_least(0.75)) },
  { "bulk throughput, 1 MiB messages, against libuv in C", "≥ 0.9",
    figure(rate_of_floor("bulk", "uv"), at_least(0.9)) },
  { "connections accepted, served once and closed per second, against libuv in C", "≥ 0.8",
    figure(rate_of_floor("once", "uv"), at_least(0.8)) },
  { "user memory of an idle connection with its suspended handler",
    "≤ 2,400 bytes plain, ≤ 20 KiB TLS",
    figure(memory "idle", at_most(2400), figures.grouped),
    figure(memory "idle-tls", at_most(20 * 1024), figures.grouped) },
  { "cost per message at 10,000 connections against 64", "≤ 1.5 ×",
    figure(cost("echo10k", "echo1"), at_most(1.5)) },
  { "100,000 timers armed and idle", "no measurable CPU", timers },
}

-- A list of {what=, target=, parts={{text=, met=}…}}.
function targets.judge(book)
  local rows = {}
  for i, entry in ipairs(LIST) do
    local parts = {}
    for k = 3, #entry do parts[#parts + 1] = entry[k](book) end
    rows[i] = { what = entry[1], target = entry[2], parts = parts }
  end
  return rows
end

return targets
