-- The conformance of connections over transports without TLS.
-- What this is not: what belongs to one of them alone (tcp_spec).
require "spec.conformance.suite"(nil)
