-- Does memory grow with what is done?  The line of least squares through samples of the bytes in
-- use, after equal amounts of work, each taken when all of it is over.
-- What this is not: how bytes are counted (gauge.lua), what is done (the rows).
local slope = {}

-- points: a list of {x, y} -> how much y grows with each x
function slope.fit(points)
  local n, sx, sy = #points, 0, 0
  for _, p in ipairs(points) do sx, sy = sx + p[1], sy + p[2] end
  local mx, my, above, below = sx / n, sy / n, 0, 0
  for _, p in ipairs(points) do
    above = above + (p[1] - mx) * (p[2] - my)
    below = below + (p[1] - mx) ^ 2
  end
  return above / below
end

-- Six of ten slopes between any two points are at least this.  One step, of a table that became
-- larger, is not in it, wherever it is; what grows with the work is.
function slope.steady(points)
  local list = {}
  for i = 1, #points do
    for k = i + 1, #points do
      local p, q = points[i], points[k]
      list[#list + 1] = (q[2] - p[2]) / (q[1] - p[1])
    end
  end
  table.sort(list)
  return list[math.ceil(#list * 0.4)]
end

-- Has `work(n)` done again and again, until all of `count` is, and `read()` after each: what that
-- returns is a list of readings, one of each process, with bytes by name in them.  The first part
-- of the work, which is not counted, makes everything as large as it is going to be.
-- -> a list, for each process {slopes=, steady= (name -> bytes for one of count), first=, last=}
function slope.measure(count, samples, work, read)
  local part = math.max(1, count // samples)
  work(part)
  local first, lines, last = read(), {}, nil
  for i = 1, samples do
    work(part)
    last = read()
    for who, reading in ipairs(last) do
      lines[who] = lines[who] or {}
      lines[who][i] = { i * part, reading }
    end
  end
  local result = {}
  for who, line in ipairs(lines) do
    result[who] = { first = first[who], last = last[who], slopes = {},
      steady = {} }
    for _, name in ipairs { "lua", "heap" } do
      local points = { { 0, first[who][name] } }
      for _, p in ipairs(line) do points[#points + 1] = { p[1], p[2][name] } end
      result[who].slopes[name] = slope.fit(points)
      result[who].steady[name] = slope.steady(points)
    end
  end
  return result
end

return slope
