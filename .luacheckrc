std = "lua54"
max_line_length = 100
files["spec/**/*.lua"].std = "+busted"
files["rockspec/*.rockspec"].std = "+rockspec"
files["spec/torture/*.lua"].globals = { "abort", "leak", "raise", "raise_in_finalizer",
  "same" } -- the host's
