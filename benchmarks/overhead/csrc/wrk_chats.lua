-- wrk script: POSTs the bodies of BODIES_FILE (one a line) in turns, with the extra headers in HDRS ("Name: value" lines), and prints one
-- JSON line. @@@@@@@@ in a body becomes the number of the pass over the file, so that no body is sent twice. Latencies in microseconds.
local path, at, pass, bodies = "/v1/chat/completions", 0, 0, {}
local nonce = string.format("%08d", pass)

function init()
  local head = "POST " .. path .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nContent-Type: application/json\r\n"
  for line in (os.getenv("HDRS") or ""):gmatch("[^\n]+") do head = head .. line .. "\r\n" end
  for line in io.lines(os.getenv("BODIES_FILE")) do
    local mark = assert(line:find("@@@@@@@@", 1, true))
    bodies[#bodies + 1] = { head .. "Content-Length: " .. #line .. "\r\n\r\n" .. line:sub(1, mark - 1), line:sub(mark + 8) }
  end
end

function request()
  at = at + 1
  if at > #bodies then
    at, pass = 1, pass + 1
    nonce = string.format("%08d", pass)
  end
  return bodies[at][1] .. nonce .. bodies[at][2]
end

function done(s, lat, _)
  local e = s.errors
  io.write(string.format('JSON {"requests":%d,"us":%d,"p50":%d,"p90":%d,"p99":%d,"mean":%.1f,"max":%d,"bad_status":%d,"sock_err":%d}\n',
    s.requests, s.duration, lat:percentile(50), lat:percentile(90), lat:percentile(99), lat.mean, lat.max,
    e.status, e.connect + e.read + e.write + e.timeout))
end
