-- A GET, a POST with a length and a chunked POST, in turns: the mix that HttpArena asks for.
local requests = {}
local turn = 0
init = function()
  local host = "Host: " .. wrk.host .. ":" .. wrk.port .. "\r\n"
  requests[1] = wrk.format("GET", "/")
  requests[2] = wrk.format("POST", "/upload", nil, string.rep("x", 20))
  requests[3] = "POST /upload HTTP/1.1\r\n" .. host .. "Transfer-Encoding: chunked\r\n\r\n"
    .. "14\r\n" .. string.rep("x", 20) .. "\r\n0\r\n\r\n"
end
request = function()
  turn = turn % 3 + 1
  return requests[turn]
end
