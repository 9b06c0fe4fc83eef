-- The conformance of connections over TLS in memory.
-- What this is not: what belongs to TLS alone (tls_spec).
require "spec.conformance.suite" "pipe"
