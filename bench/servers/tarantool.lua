-- The echo server on Tarantool's sockets: a fiber for each connection, which takes all that is
-- there with one sysread and answers it with one write.
--
--   tarantool tarantool.lua MODE         length, line, bulk, once, udp; prints its port, serves
--                                        until it is killed
--   tarantool tarantool.lua --version    prints what it is
--
-- Tarantool's Lua is LuaJIT, that is Lua 5.1.
local errno = require 'errno'
local socket = require 'socket'

local BACKLOG = 4096
local READ = 65536
local LINE_MOST = 65536
local MEGABYTE = 1024 * 1024

-- ---- messages ------------------------------------------------------------------------
-- A cutter looks at data -> the echoes of the messages in it, where what follows them begins,
-- how many bytes that needs at least to be worth another look; nil if a message is too long.

local function decode2(data, at)
    local a, b = data:byte(at, at + 1)
    return a * 256 + b
end

local function decode4(data, at) return decode2(data, at) * 65536 + decode2(data, at + 2) end

local function packages(header, decode, most)
    return function(data)
        local echoes, at = {}, 1
        while #data - at + 1 >= header do
            local length = decode(data, at)
            if length > most then return nil end
            local past = at + header + length
            if past - 1 > #data then return echoes, at, past - at end
            table.insert(echoes, data:sub(at, past - 1))
            at = past
        end
        return echoes, at, header
    end
end

local function lines(data)
    local echoes, at, last = {}, 1, data:find('\n', 1, true)
    while last do
        table.insert(echoes, data:sub(at, last))
        at = last + 1
        last = data:find('\n', at, true)
    end
    local rest = #data - at + 1
    if rest >= LINE_MOST then return nil end
    return echoes, at, rest + 1
end

local cutters = {
    length = packages(2, decode2, 65535),
    line = lines,
    bulk = packages(4, decode4, 16 * MEGABYTE),
    once = packages(2, decode2, 65535),
}

-- ---- connections ---------------------------------------------------------------------

-- What is there, at least a byte -> nil at the end.
local function receive(conn)
    local chunk = conn:sysread(READ)
    while chunk == nil and conn:errno() == errno.EAGAIN and conn:readable() do
        chunk = conn:sysread(READ)
    end
    return chunk ~= '' and chunk or nil
end

-- Data, and what comes behind it, until there are so many bytes: more than data has -> nil at the
-- end.
local function gather(conn, data, need)
    local parts, size = {}, #data
    if size > 0 then parts[1] = data end
    while size < need do
        local chunk = receive(conn)
        if chunk == nil then return nil end
        table.insert(parts, chunk)
        size = size + #chunk
    end
    return parts[2] and table.concat(parts) or parts[1]
end

local function echo(conn, cut, once)
    local data, need = '', 1
    while true do
        data = gather(conn, data, need)
        if data == nil then return end
        local echoes, at
        echoes, at, need = cut(data)
        if echoes == nil then return end
        data = data:sub(at)
        local reply = echoes[2] and not once and table.concat(echoes) or echoes[1]
        if reply and not conn:write(reply) or reply and once then return end
    end
end

local function serve(mode)
    local cut = cutters[mode]
    return socket.tcp_server('127.0.0.1', 0, {
        prepare = function() return BACKLOG end,
        handler = function(conn)
            conn:setsockopt('tcp', 'TCP_NODELAY', true)
            echo(conn, cut, mode == 'once')
        end,
    })
end

-- ---- datagrams -----------------------------------------------------------------------

local function serve_udp()
    local fiber = require 'fiber'
    local server = socket('AF_INET', 'SOCK_DGRAM', 'udp')
    assert(server:bind('127.0.0.1', 0), server:error())
    fiber.create(function()
        while server:readable() do
            local data, from = server:recvfrom(READ)
            while data ~= nil do
                server:sendto(from.host, from.port, data)
                data, from = server:recvfrom(READ)
            end
        end
    end)
    return server
end

-- ---- the program ---------------------------------------------------------------------

local mode = arg[1]
if mode == '--version' then
    print('Tarantool ' .. require('tarantool').version)
    os.exit(0)
elseif mode ~= 'udp' and not cutters[mode] then
    io.stderr:write 'unsupported\n'
    os.exit(2)
end

local server = assert(mode == 'udp' and serve_udp() or serve(mode))
print(server:name().port)
io.stdout:flush()
