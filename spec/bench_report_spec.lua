-- What bench/report.lua makes of results: it is run as bench/run runs it.
-- What this is not: a measurement; the results are made up.
local assert = require "luassert"
local describe = require("busted").describe
local it = require("busted").it

-- A name for a file that is gone after the block.
local function scratch(text)
  local name = os.tmpname()
  local file <close> = assert(io.open(name, "w"))
  file:write(text or "")
  return setmetatable({ name = name }, { __close = function() os.remove(name) end })
end

local function read_file(name)
  local file <close> = assert(io.open(name))
  return file:read "a"
end

-- What a command writes, its complaints too, and whether it succeeded.
local function run(command, ...)
  local pipe = assert(io.popen(command:format(...) .. " 2>&1"))
  local output = pipe:read "a"
  return output, pipe:close() == true
end

local function report(results, options)
  local file <close> = scratch(results)
  return run("lua5.4 bench/report.lua %s %s", file.name, options or "")
end

local HEAD <const> = [[
setup rounds=3 seconds=1 form=full
pinning The server had core 1, the load generator core 0.
machine Some CPU, 2 cores, Linux
server uv libuv in C
server lunewire lunewire
server lunewire-gen lunewire, gen. GC
server go Go & <others>
version uv libuv 1.44.2
scenario echo1 uv Echo of one
scenario echo16 uv Echo of sixteen
scenario echo10k uv Echo on many
scenario idle uv Idle memory
scenario idle-tls uv Idle TLS memory
]]

local RESULT <const> = "result scenario=%s server=%s round=%d messages_per_s=%d p50_us=%d " ..
  "p99_us=%d messages=%d cpu_ns=%d waited_ns=%d size=%d mb_per_s=%d\n"

-- A line for each rate, in rounds from 1; each message costs cpu µs.
local function results(scenario, server, rates, cpu, size)
  local lines = {}
  for round, rate in ipairs(rates) do
    lines[round] = RESULT:format(scenario, server, round, rate, 100 + round, 200 + round, 1000,
      1000 * 1000 * cpu, 1000 * 1000 * cpu, size or 64, rate * (size or 64) // 1000000)
  end
  return table.concat(lines)
end

local function memory(scenario, server, bytes)
  return ("result scenario=%s server=%s round=1 rss_per_conn=%d pss_per_conn=%d\n"):format(
    scenario, server, bytes, bytes - 1)
end

-- The cells of the line of a table that begins with a text.
local function row(output, first, heading)
  local at = heading and assert(output:find(heading, 1, true)) or 1
  for line in output:sub(at):gmatch "[^\n]+" do
    local cells = {}
    for cell in line:gmatch "|%s*([^|]-)%s*%f[|]" do cells[#cells + 1] = cell end
    if cells[1] == first then return cells end
  end
end

describe("bench/report.lua's tables", function()
  it("show medians, and ratios to the floor of the same round", function()
    -- The ratio of the medians is 0.60, the median of the ratios 0.50.
    local output = report(HEAD .. results("echo1", "uv", { 1000, 2000, 4000 }, 2) ..
      results("echo1", "lunewire", { 600, 1000, 1200 }, 3))
    assert.are.same({ "libuv in C", "2,000", "1.00", "102", "202", "2.00", "1.00", "50 %" },
      row(output, "libuv in C"))
    assert.are.same({ "lunewire", "1,000", "0.50", "102", "202", "3.00", "1.50", "50 %" },
      row(output, "lunewire"))
  end)

  it("tell what is large with thousands, and long messages in MB/s", function()
    local output = report(HEAD .. results("echo1", "uv", { 1234567 }, 2, 60000))
    local cell = row(output, "libuv in C")
    assert.are.same({ "1,234,567", "74,074" }, { cell[2], cell[3] })
  end)

  it("take a round that the floor lacks for no ratio", function()
    local output = report(HEAD .. results("echo1", "uv", { 1000 }, 2) ..
      results("echo1", "lunewire", { 500, 9000, 9000 }, 2))
    assert.are.equal("0.50", row(output, "lunewire")[3])
  end)

  it("go on without a floor", function()
    local output, ok = report(HEAD .. results("echo1", "lunewire", { 500 }, 2))
    assert.is_true(ok)
    assert.are.same({ "lunewire", "500", "–", "101", "201", "2.00", "–", "50 %" },
      row(output, "lunewire"))
  end)

  it("say why a server is missing", function()
    local output = report(HEAD .. results("echo1", "uv", { 1000 }, 2) ..
      "absent echo1 go not installed\nabsent echo1 lunewire unsupported\n")
    assert.are.equal("not installed", row(output, "Go & <others>")[2])
    assert.is_nil(row(output, "lunewire"))
    assert.is_truthy(output:find("Without it: lunewire.", 1, true))
  end)

  it("leave out a result whose server failed later", function()
    local output = report(HEAD .. results("echo1", "lunewire", { 1000 }, 2) ..
      "absent echo1 lunewire failed\n")
    assert.are.equal("failed", row(output, "lunewire")[2])
  end)

  it("show memory, scale, machine and versions", function()
    local output = report(HEAD .. memory("idle", "uv", 12345) ..
      "scale name=channels count=10000 cpu=0.31 base_cpu=0.28\n")
    assert.are.same({ "libuv in C", "12,345", "12,344" }, row(output, "libuv in C"))
    assert.are.same({ "a message passed to one of 10,000 waiting tasks; of 64", "0.31 µs",
      "0.28 µs" }, row(output, "a message passed to one of 10,000 waiting tasks; of 64"))
    assert.is_truthy(output:find("Machine: Some CPU, 2 cores, Linux.\n", 1, true))
    assert.is_truthy(output:find("Versions: libuv 1.44.2.\n", 1, true))
    assert.is_truthy(output:find("Medians of 3 interleaved rounds, 1 s each.\n", 1, true))
  end)

  it("say how much the floors were disturbed, and that it was much", function()
    local floor = HEAD .. results("echo1", "uv", { 1000 }, 2)
    local much = "That is much: others used it, and the figures are not to be trusted.\n"
    assert.is_truthy(report(floor):find("at most 50 % of its time. " .. much, 1, true))
    local calm = floor:gsub("waited_ns=%d+", "waited_ns=40000")
    assert.is_truthy(report(calm):find("at most 2 % of its time.\n", 1, true))
  end)

  it("refuse a line that they do not know", function()
    local output, ok = report(HEAD .. "bogus line\n")
    assert.is_false(ok)
    assert.is_truthy(output:find("not a line of results: bogus line", 1, true))
  end)
end)

describe("bench/report.lua's targets", function()
  local function judged(text, what)
    local cell = assert(row(report(HEAD .. text), what, "### Targets"))
    return { cell[3], cell[4] }
  end

  local ECHO <const> = "echo, 1 in flight, against libuv in C in the same run"
  local ECHO16 <const> = "echo, 16 in flight, against libuv in C"
  local PEERS <const> = "any peer, any of these loads"
  local MEMORY <const> = "user memory of an idle connection with its suspended handler"
  local COST <const> = "cost per message at 10,000 connections against 64"
  local TIMERS <const> = "100,000 timers armed and idle"

  local function echo(scenario, plain, generational)
    return results(scenario, "uv", { 1000 }, 2) .. results(scenario, "lunewire", { plain }, 2) ..
      (generational and results(scenario, "lunewire-gen", { generational }, 2) or "")
  end

  it("are not measured without results", function()
    assert.are.same({ "–", "not measured" }, judged("", ECHO))
    assert.are.same({ "–", "not measured" }, judged("", PEERS))
    assert.are.same({ "–; –", "not measured; not measured" }, judged("", MEMORY))
    assert.are.same({ "–", "not measured" }, judged("", TIMERS))
  end)

  it("are not judged by fewer than three rounds", function()
    assert.is_truthy(report(HEAD):find("### Targets", 1, true))
    assert.is_nil(report((HEAD:gsub("rounds=3", "rounds=2"))):find("### Targets", 1, true))
  end)

  it("are met from their limit on", function()
    assert.are.same({ "0.95", "yes" }, judged(echo("echo1", 950), ECHO))
    assert.are.same({ "0.95", "no" }, judged(echo("echo1", 949), ECHO))
  end)

  it("are judged with both ways of collecting garbage", function()
    assert.are.same({ "0.90 (generational GC 0.96)", "with generational GC" },
      judged(echo("echo1", 900, 960), ECHO))
    assert.are.same({ "0.90 (generational GC 0.91)", "no" }, judged(echo("echo1", 900, 910), ECHO))
  end)

  it("have a first step", function()
    assert.are.same({ "0.60", "first step: yes" }, judged(echo("echo16", 600), ECHO16))
    assert.are.same({ "0.65", "yes" }, judged(echo("echo16", 650), ECHO16))
    assert.are.same({ "0.50", "no" }, judged(echo("echo16", 500), ECHO16))
  end)

  it("name the peers that are ahead", function()
    local ahead = echo("echo1", 900) .. results("echo1", "go", { 1800 }, 2)
    assert.are.same({ "Go & <others> 2.00 × ours in echo1", "no" }, judged(ahead, PEERS))
    local behind = echo("echo1", 900) .. results("echo1", "go", { 450 }, 2)
    assert.are.same({ "nearest: Go & <others> 0.50 × ours in echo1", "yes" },
      judged(behind, PEERS))
  end)

  it("know memory, cost and timers", function()
    local idle = memory("idle", "lunewire", 2400) .. memory("idle-tls", "lunewire", 20481)
    assert.are.same({ "2,400; 20,481", "yes; no" }, judged(idle, MEMORY))
    local many = results("echo1", "lunewire", { 1 }, 2) .. results("echo10k", "lunewire", { 1 }, 3)
    assert.are.same({ "1.50", "yes" }, judged(many, COST))
    local timers = "scale name=timers_idle seconds=3 count=100000 cpu=%d base_cpu=90\n"
    assert.are.equal("yes", judged(timers:format(3089), TIMERS)[2])
    assert.are.equal("no", judged(timers:format(3091), TIMERS)[2])
  end)
end)

describe("bench/report.lua's charts", function()
  local TEXTS <const> = [[python3 -c 'if True:
    import sys, xml.etree.ElementTree as tree
    for node in tree.parse(sys.argv[1]).iter():
        name = node.tag.split("}")[1]
        if name in ("text", "rect"): print(name, node.get("class"), node.text or node.get("width"))
  ' %s]]

  -- What an XML parser finds: its lines "text CLASS TEXT" and "rect CLASS WIDTH".
  local function drawn(text)
    local svg <close> = scratch()
    assert(select(2, report(HEAD .. text, "--svg " .. svg.name)))
    local output, ok = run(TEXTS, svg.name)
    assert.is_true(ok, output)
    return output
  end

  it("have the names and figures of all bars, the best first", function()
    local output = drawn(results("echo1", "uv", { 200000 }, 2) ..
      results("echo1", "lunewire", { 100000 }, 2) .. results("echo1", "go", { 1500 }, 2))
    local names = {}
    for line in output:gmatch "text ([^\n]+)\n" do names[#names + 1] = line end
    assert.are.same({ "title Echo, 1 in flight, messages/s", "name libuv in C", "figure 200 k",
      "name ours lunewire", "figure ours 100 k", "name Go & <others>", "figure 1.5 k" }, names)
  end)

  it("draw bars as long as their figures say, ours apart", function()
    local output = drawn(results("echo1", "uv", { 2000 }, 2) ..
      results("echo1", "lunewire", { 1000 }, 2))
    local floor, ours = output:match "rect floor (%S+).*rect ours (%S+)"
    assert.are.equal(tonumber(floor), 2 * tonumber(ours))
  end)

  it("have the least memory first", function()
    local output = drawn(memory("idle", "uv", 5000) .. memory("idle", "lunewire", 2000))
    assert.is_truthy(output:find "name ours lunewire.*2,000.*libuv in C.*5,000")
  end)

  it("leave out what was not measured", function()
    local memory_alone = drawn("absent echo1 uv not installed\n" .. memory("idle", "uv", 5000))
    assert.is_nil(memory_alone:find("Echo", 1, true))
    assert.are.equal("text title Not measured yet\n", drawn "absent echo1 uv not installed\n")
  end)
end)

describe("bench/report.lua --write", function()
  local BEGIN <const> = "<!-- begin of what bench/run --write wrote -->\n"
  local END <const> = "<!-- end of what bench/run --write wrote -->\n"

  it("replaces what stands between the marks, and nothing else", function()
    local document <close> = scratch("before\n" .. BEGIN .. "old\n" .. END .. "behind\n")
    for _ = 1, 2 do
      local output, ok = report(HEAD, "--write " .. document.name)
      assert.are.same({ "", true }, { output, ok })
    end
    local text = read_file(document.name)
    assert.are.equal("before\n" .. BEGIN .. report(HEAD) .. END .. "behind\n", text)
  end)

  it("refuses a document without marks, which stays as it is", function()
    local document <close> = scratch "text\n"
    local output, ok = report(HEAD, "--write " .. document.name)
    assert.is_false(ok)
    assert.is_truthy(output:find("the marks are missing", 1, true))
    assert.are.equal("text\n", read_file(document.name))
  end)

  it("finds its marks in docs/benchmarks.md", function()
    local text = read_file "docs/benchmarks.md"
    local _, first = text:find(BEGIN, 1, true)
    assert.is_truthy(text:find(END, assert(first), true))
  end)
end)
