#!/usr/bin/env lua5.4
-- A chat server: rooms, names, and no patience with those who do not read.
--
--   chat.lua [address]
--
-- The address is 127.0.0.1:7777 unless said otherwise.  What a member types goes to everybody
-- else in the same room; /help lists what begins with a slash.  SIGTERM tells everybody and ends.
local wire = require "lunewire"

local LINE <const> = 1024     -- bytes that a member may type at once
local BACKLOG <const> = 65536 -- bytes that a member may leave unread

io.stdout:setvbuf("line")

-- ---- rooms ---------------------------------------------------------------------------
-- Everything here is done without waiting, so all members see all things in the same order.

local names = {} -- name → member
local rooms = {} -- name → set of members; a room exists while somebody is in it

-- A member: {conn=, name=, room=}
local Member = {}
Member.__index = Member

local function sorted_keys(set)
  local keys = {}
  for key in pairs(set) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

function Member:tell(text) return self.conn:try_send(text, "\n") end

-- To everybody in a room but one.  A slow member must not hold up the others, nor may what it
-- does not read pile up here: it goes, and those who remain hear about it.
local function announce(room, text, except)
  local slow = {}
  for member in pairs(rooms[room] or {}) do
    if member ~= except then
      local _, _, code = member:tell(text)
      if code == "EAGAIN" then slow[#slow + 1] = member end
    end
  end
  for _, member in ipairs(slow) do
    member:leave("was too slow")
    member.conn:reset()
  end
end

function Member:enter(room)
  self.room = room
  rooms[room] = rooms[room] or {}
  rooms[room][self] = true
  announce(room, "* " .. self.name .. " has joined " .. room, self)
end

-- Gone first, announced afterwards: that may make others leave.
function Member:leave(how)
  local room = self.room
  if not room then return end
  self.room, rooms[room][self] = nil, nil
  if not next(rooms[room]) then rooms[room] = nil end
  announce(room, "* " .. self.name .. " " .. how)
end

function Member:say(text) announce(self.room, text, self) end

-- ---- members -------------------------------------------------------------------------

local server -- when it ends, nobody has to hear of everybody's leaving

-- Whichever way the connection ends.
function Member:__close()
  names[self.name] = nil
  if not server:closing() then self:leave("has left") end
end

local guests = 0

local function new_member(conn)
  repeat
    guests = guests + 1
  until not names["guest" .. guests]
  local member = setmetatable({ conn = conn, name = "guest" .. guests }, Member)
  names[member.name] = member
  return member
end

-- ---- what begins with a slash --------------------------------------------------------
-- Each is given the member and what stands behind the command; true ends the connection.

local commands = {}

-- Of members and rooms.
local function is_name(text) return #text <= 16 and text:find "^[%w_-]+$" end

function commands.name(member, name)
  if not is_name(name) then return member:tell "* a name has 1 to 16 letters, digits, _ and -" end
  if names[name] then return member:tell("* " .. name .. " is taken") end
  local old = member.name
  names[old], names[name], member.name = nil, member, name
  member:tell("* you are " .. name)
  member:say("* " .. old .. " is now " .. name)
end

function commands.join(member, room)
  if not is_name(room) then return member:tell "* a room has 1 to 16 letters, digits, _ and -" end
  member:leave("has gone to " .. room)
  member:enter(room)
  member:tell("* you are in " .. room)
end

function commands.who(member)
  local here = {}
  for other in pairs(rooms[member.room]) do here[other.name] = true end
  member:tell("* here: " .. table.concat(sorted_keys(here), ", "))
end

function commands.rooms(member)
  member:tell("* rooms: " .. table.concat(sorted_keys(rooms), ", "))
end

function commands.me(member, deed) member:say("* " .. member.name .. " " .. deed) end

function commands.quit(member)
  member:tell "* bye"
  return true
end

function commands.help(member)
  member:tell("* /" .. table.concat(sorted_keys(commands), " /"))
end

-- ---- connections ---------------------------------------------------------------------

-- Text has no control over the others' terminals.
local function obey(member, line)
  local text = line:gsub("%c", "")
  local name, argument = text:match "^/(%S*)%s*(.-)%s*$"
  if not name then
    member:say(member.name .. ": " .. text)
  elseif commands[name] then
    return commands[name](member, argument) == true
  else
    member:tell "* no such command; /help lists them"
  end
end

local function chat(conn)
  local member <close> = new_member(conn)
  member:tell("* welcome, you are " .. member.name .. " in lobby; /help helps")
  member:enter "lobby"
  for line in conn:lines() do
    if obey(member, line) then return end
  end
  local _, code = conn:last_error()
  if code == "EMSGSIZE" then member:tell "* nobody reads such long lines" end
end

local function say_goodbye()
  for _, member in pairs(names) do member:tell "* the server is going down, goodbye" end
end

server = assert(wire.serve(arg[1] or "127.0.0.1:7777", {
  limits = { line = LINE, high_water = BACKLOG },
  on_shutdown = say_goodbye,
}, chat))
print("chat server on " .. server:addr() .. ", try it:")
print("  nc 127.0.0.1 " .. server:port())
wire.run()
