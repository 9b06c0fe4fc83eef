# What bench/run measures: servers, and scenarios in which some of them are.  Sourced by it, when
# $out and $form are known.
#
#   server KEY TITLE NEEDS COMMAND [WORD]
#     NEEDS is a program, or lua:MODULE; without it the server is left out as not installed.
#     It is run as COMMAND MODE [WORD].
#   scenario KEY FORM FLOOR SERVERS TITLE MODE LOAD…
#     FORM is quick if the quick form has it too; FLOOR is the server that others are compared with;
#     MODE is the servers' mode, LOAD the load generator's and its options.
#
# What this is not: how they are measured (bench/run), or told (bench/report.lua).
# shellcheck shell=bash disable=SC2154 # out, form

server epoll "epoll in C" "$out/epoll" "$out/epoll"
server uv "libuv in C" "$out/uv" "$out/uv"
server epoll_tls "epoll, OpenSSL in C" "$out/epoll_tls" "$out/epoll_tls"
server epoll_tls-ahead "OpenSSL, read-ahead" "$out/epoll_tls" "$out/epoll_tls" ahead
server lunewire "lunewire" lua:lunewire "lua5.4 bench/servers/lunewire.lua"
server lunewire-gen "lunewire, gen. GC" lua:lunewire "lua5.4 bench/servers/lunewire.lua" generational
server go "Go, flush when idle" "$out/go" "$out/go" flush
server go-each "Go, a write each" "$out/go" "$out/go"
server luv "luv" lua:luv "lua5.4 bench/servers/luv.lua"
server cqueues "cqueues" lua:cqueues "lua5.4 bench/servers/cqueues.lua"
server node "Node.js" node "node bench/servers/node.js"
server tarantool "Tarantool" tarantool "tarantool bench/servers/tarantool.lua"

# A write for each message matters only where messages come faster than they are written.
OURS="lunewire lunewire-gen"
PEERS="go luv cqueues node tarantool"
PLAIN="epoll uv $OURS $PEERS"
TLS="epoll_tls epoll_tls-ahead $OURS $PEERS"

few=1000 many=8000
if [ "$form" = quick ]; then few=100 many=400; fi

scenario echo1 full uv "$PLAIN go-each" "Echo: 64 bytes, 64 connections, 1 in flight" \
  length length --conns 64 --depth 1 --size 64
scenario echo16 quick uv "$PLAIN go-each" "Echo: 64 bytes, 64 connections, 16 in flight" \
  length length --conns 64 --depth 16 --size 64
scenario line16 quick uv "$PLAIN" "Lines: 64 bytes, 64 connections, 16 in flight" \
  line line --conns 64 --depth 16 --size 64
scenario big quick uv "$PLAIN" "Echo: 60,000 bytes, 16 connections, 1 in flight" \
  length length --conns 16 --depth 1 --size 60000
scenario bulk quick uv "uv $OURS go" "Bulk: 1 MiB, 16 connections, 1 in flight" \
  bulk bulk --conns 16 --depth 1 --size 1048576
scenario echo1k quick uv "$PLAIN" "Echo: 64 bytes, 1,000 connections, 1 in flight" \
  length length --conns 1000 --depth 1 --size 64
scenario echo10k full uv "uv $OURS" "Echo: 64 bytes, 10,000 connections, 1 in flight" \
  length length --conns 10000 --depth 1 --size 64
scenario once quick uv "$PLAIN" "Connect, one echo, close: 64 at a time; a message is a connection" \
  once once --conns 64 --size 64
scenario udp quick uv "$PLAIN" "UDP echo: 64 bytes, 64 sockets, 1 in flight" \
  udp udp --conns 64 --depth 1 --size 64
scenario tls1 full epoll_tls "$TLS go-each" "TLS echo: 64 bytes, 64 connections, 1 in flight" \
  tls tls --conns 64 --depth 1 --size 64
scenario tls16 quick epoll_tls "$TLS go-each" "TLS echo: 64 bytes, 64 connections, 16 in flight" \
  tls tls --conns 64 --depth 16 --size 64
scenario tlsbig full epoll_tls "$TLS" "TLS echo: 60,000 bytes, 16 connections, 1 in flight" \
  tls tls --conns 16 --depth 1 --size 60000
scenario idle quick uv "$PLAIN" "Memory of the server for an idle connection" \
  length idle --few $few --many $many
scenario idle-tls quick epoll_tls "$TLS" "Memory of the server for an idle TLS connection" \
  tls idle-tls --few $few --many $many
