-- A header that never comes again, as a proxy adds one to each request.
local number = 0
request = function()
  number = number + 1
  wrk.headers["X-Request-Id"] = string.format("%016x", number)
  return wrk.format()
end
