-- The conformance of connections over TLS 1.2.
-- What this is not: what belongs to TLS alone (tls_spec).
require "spec.conformance.suite" "1.2"
