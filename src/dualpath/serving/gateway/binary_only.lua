-- Lets a request pass whose tensors are all binary: a JSON header first, of a stated length, without data of its own.
-- Triton reserves memory by the shape that JSON data declares, and checks binary data against its length.

local MOST_BYTES = 8192
local MOST_VALUES = 1e9

local function refuse(txn, status, sentence)
  local reply = txn:reply({status = status, headers = {["content-type"] = {"application/json"}}})
  reply:set_body('{"error":"' .. sentence .. '"}')
  txn:done(reply)
end

core.register_action("binary_only", {"http-req"}, function(txn)
  local said = txn.sf:req_hdr("inference-header-content-length") or ""
  local n = said:match("^%d+$") and tonumber(said) or 0
  if n < 1 or n > MOST_BYTES then
    refuse(txn, 415, "gateway: expected binary tensors, with Inference-Header-Content-Length from 1 to "
      .. MOST_BYTES .. ", got none. Use Triton's client library, or gRPC.")
    return
  end
  local head = (txn.sf:req_body() or ""):sub(1, n)
  if #head < n then
    refuse(txn, 400, "gateway: expected a body as long as Inference-Header-Content-Length says, got a shorter one.")
  elseif head:find('"data"', 1, true) or head:find("\\", 1, true) then
    refuse(txn, 415, "gateway: expected binary tensors, got data or an escape in the JSON header. Send them as binary.")
  end
  for shape in head:gmatch('"shape"%s*:%s*(%b[])') do
    -- Triton 2.51 takes the number of rows by 32 bits and bytes by 64: larger ones pass for others.
    local n_values = 1.0
    for number in shape:gmatch("%d+") do
      n_values = n_values * math.max(1, tonumber(number))
    end
    if n_values >= MOST_VALUES then
      refuse(txn, 400, "gateway: expected a shape of less than 1000000000 values, got one of more. Correct it.")
    end
  end
end)
