-- wrk script: POSTs one fixed body (file named by BODY_FILE) with the extra headers in HDRS ("Name: value" lines),
-- and prints one JSON line. Latencies in microseconds.
local f = assert(io.open(os.getenv("BODY_FILE"), "rb"))
wrk.method, wrk.body = "POST", f:read("*a")
f:close()
wrk.headers["Content-Type"] = "application/json"
for k, v in (os.getenv("HDRS") or ""):gmatch("([%w%-]+): ([^\n]+)") do wrk.headers[k] = v end

function done(s, lat, _)
  local e = s.errors
  io.write(string.format('JSON {"requests":%d,"us":%d,"p50":%d,"p90":%d,"p99":%d,"mean":%.1f,"max":%d,"bad_status":%d,"sock_err":%d}\n',
    s.requests, s.duration, lat:percentile(50), lat:percentile(90), lat:percentile(99), lat.mean, lat.max,
    e.status, e.connect + e.read + e.write + e.timeout))
end
