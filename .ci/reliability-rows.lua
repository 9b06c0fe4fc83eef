-- The rows of the table in docs/reliability.md: what is tested, the command, and what of its output
-- is the figure.  Read by .ci/reliability, which gives what is called `find` here.
return function(find)
  local tests, titled, named, specs = find.tests, find.titled, find.named, find.specs
  return {
    { name = "suite", title = "The whole suite, plain", command = "make test", figure = tests },
    { name = "sanitize", title = "under AddressSanitizer, LeakSanitizer, UndefinedBehaviorSanitizer",
      command = "make sanitize", figure = tests },
    { name = "valgrind", title = "under valgrind, with leaks and descriptors",
      command = "make valgrind", figure = tests },
    { name = "gc", title = "with three collectors: most eager, generational, one in each hook",
      command = "make test-gc", figure = titled },
    { name = "apicheck", title = "on a Lua that checks each call of its C interface",
      command = "make test-apicheck", figure = tests },
    { name = "conformance", title = "One suite over TCP, Unix sockets, pipes, TLS 1.2, 1.3, TLS in a pipe",
      command = specs("spec/conn_spec.lua", "spec/conn_tls12_spec.lua", "spec/conn_tls13_spec.lua",
        "spec/conn_tls_pipe_spec.lua"), figure = tests },
    { name = "faults", title = "The whole suite over links that misbehave, once for each way",
      command = "make test-faults", figure = titled },
    { name = "torture", title = "Allocations that fail, every one of them",
      command = "make torture", figure = tests },
    { name = "fuzz", title = "Fuzzing, ten minutes a target", command = "make fuzz FUZZ_SECONDS=600",
      figure = tests },
    { name = "descriptors", title = "64 descriptors, 1,000 clients",
      command = specs "spec/descriptors_spec.lua", figure = tests },
    { name = "drain", title = "SIGTERM at a random moment, 200 clients with numbered requests",
      command = "make drain", figure = named("rounds", "replies") },
    { name = "tls", title = "TLS: certificates, versions, cuts at every byte, floods",
      command = specs("spec/tls_matrix_spec.lua", "spec/tls_flood_spec.lua", "spec/tls_peers_spec.lua"),
      figure = tests },
    { name = "soak", title = "Scale and soak", command = "make soak",
      figure = named("idle.tcp.server.heap", "idle.tls.server.heap", "churn.tcp.server.slope_heap",
        "churn.tls.server.slope_heap", "mixed.sessions", "mixed.server.slope_heap") },
  }
end
