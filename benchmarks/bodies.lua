-- A wrk script: POST the bodies listed in the file BODIES in turn, all of the type
-- CONTENT_TYPE, and print the counts and latencies (microseconds) as one line of JSON.

local requests, count, last = {}, 0, 0

function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = os.getenv("CONTENT_TYPE")
  for path in io.lines(os.getenv("BODIES")) do
    local file = assert(io.open(path, "rb"))
    count = count + 1
    requests[count] = wrk.format("POST", nil, nil, file:read("*a"))
    file:close()
  end
end

function request()
  last = last % count + 1
  return requests[last]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"answers": %d, "microseconds": %d, "p50": %d, "p99": %d, ' ..
    '"refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
