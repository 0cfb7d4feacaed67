-- wrk: GETs with a key drawn uniformly from as many as the first argument says, and the result as one line of JSON.

local keys

function init(args)
  keys = tonumber(args[1])
  math.randomseed(os.time())
end

function request()
  local value = string.format("value-of-key-%027d", math.random(0, keys - 1))
  return wrk.format("GET", "/prod/pets/7", {["x-api-key"] = value, ["host"] = "a1.bench"})
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.6f,"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect, e.read, e.write, e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
