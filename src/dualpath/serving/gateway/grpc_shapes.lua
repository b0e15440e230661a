-- Lets a ModelInfer request pass whose tensors have shapes that Triton can count, and says which model it asks for.
-- Triton 2.51 takes the number of rows by 32 bits and bytes by 64: larger ones pass for others and end a process.

local MOST_VALUES = 1e9
local MODEL_NAME, INPUTS, SHAPE = 1, 5, 3 -- fields of ModelInferRequest and of its InferInputTensor
local VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

local function varint(text, at)
  local value = 0
  for shift = 0, 63, 7 do
    local byte = text:byte(at)
    if not byte then
      error("cut")
    end
    value, at = value | (byte & 127) << shift, at + 1
    if byte < 128 then
      return value, at
    end
  end
  error("too long")
end

-- Iterates over the fields of a protobuf message: number, kind, and the value or bytes of each.
local function fields(text)
  local at = 1
  return function()
    if at > #text then
      return nil
    end
    local tag, value
    tag, at = varint(text, at)
    if tag >> 32 ~= 0 then
      error("unknown")
    end
    local kind = tag & 7
    if kind == VARINT then
      value, at = varint(text, at)
    elseif kind == BYTES then
      local n
      n, at = varint(text, at)
      if n < 0 or n > #text - at + 1 then
        error("cut")
      end
      value, at = text:sub(at, at + n - 1), at + n
    elseif kind == FIXED32 or kind == FIXED64 then
      at = at + (kind == FIXED32 and 4 or 8)
    else
      error("unknown")
    end
    return tag >> 3, kind, value
  end
end

local function numbers(kind, value)
  if kind == VARINT then
    return {value}
  end
  local found, at, number = {}, 1
  while at <= #value do
    number, at = varint(value, at)
    found[#found + 1] = number
  end
  return found
end

local function check(message)
  local model, fits = "", true
  for field, kind, value in fields(message) do
    if field == MODEL_NAME and kind == BYTES then
      model = value
    elseif field == INPUTS then
      local n_values = 1.0
      for of_tensor, its_kind, its_value in fields(value) do
        for _, number in ipairs(of_tensor == SHAPE and numbers(its_kind, its_value) or {}) do
          fits = fits and number >= 0
          n_values = n_values * math.max(1, number)
        end
      end
      fits = fits and n_values < MOST_VALUES
    end
  end
  return model, fits
end

local function refuse(txn, status, sentence)
  local reply = txn:reply({status = 200})
  reply:add_header("grpc-status", status)
  reply:add_header("grpc-message", "gateway: " .. sentence)
  txn:done(reply)
end

core.register_action("grpc_shapes", {"http-req"}, function(txn)
  local body = txn.sf:req_body() or ""
  if #body < 5 or body:byte(1) ~= 0 then
    refuse(txn, "12", "expected one message without compression, got another. Use Triton's client library.")
    return
  end
  local n = string.unpack(">I4", body, 2)
  if #body - 5 < n then
    refuse(txn, "8", "expected a whole request of at most 1 MB, got a longer or a cut one. Send fewer rows at a time.")
    return
  end
  local parsed, model, fits = pcall(check, body:sub(6, 5 + n))
  if not parsed or #body - 5 > n then
    refuse(txn, "3", "expected one ModelInferRequest, got something else. Use Triton's client library.")
  elseif not fits then
    refuse(txn, "3", "expected shapes of less than 1000000000 values, got one of more. Correct it.")
  else
    txn:set_var("txn.model", model)
  end
end)
