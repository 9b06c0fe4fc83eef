-- What serves may be: a function, something callable, or {object, "method"}.
-- What this is not: when it runs, and with what.

-- The handler as a function.  what: the call's name, for the message; level: whose fault misuse
-- is, as error() counts from the function that calls this.
return function(handler, what, level)
  if type(handler) == "function" then return handler end
  local meta = getmetatable(handler)
  if type(meta) == "table" and meta.__call then
    return function(...) return handler(...) end
  end
  local object, method = nil, nil
  if type(handler) == "table" then object, method = handler[1], handler[2] end
  if object == nil or type(method) ~= "string" then
    error(('%s: the handler must be a function, something callable or {object, "method"}, not %s')
      :format(what, type(handler)), level + 1)
  end
  return function(...) return object[method](object, ...) end
end
