#include "backends/openvino/instance.h"

#include <algorithm>

#include "backends/common/datatypes.h"
#include "backends/common/errors.h"
#include "backends/openvino/rows.h"
#include "backends/openvino/strings.h"

namespace mesh::backend {
namespace {

ov::Shape ToShape(const InputView& input) { return {input.shape, input.shape + input.dims_count}; }

std::size_t ElementCount(const ov::Shape& shape) { return ov::shape_size(shape); }

// The shape of a port for `rows` rows of the batch, when nothing else of it is dynamic.
bool PredictShape(const Port& port, bool batches, std::size_t rows, ov::Shape* shape) {
  if (!port.rank_known) {
    return false;
  }
  shape->assign(port.dims.begin(), port.dims.end());
  const std::size_t first = batches ? 1 : 0;
  if (batches) {
    if (port.dims.empty()) {
      return false;
    }
    shape->front() = rows;
  }
  return std::all_of(port.dims.begin() + static_cast<std::ptrdiff_t>(first), port.dims.end(),
                     [](std::int64_t dim) { return dim >= 0; });
}

bool Wants(const Item& item, std::size_t output) {
  return std::find(item.wanted.begin(), item.wanted.end(), output) != item.wanted.end();
}

bool SameRows(const Item& left, const Item& right) {
  return std::equal(left.inputs.begin(), left.inputs.end(), right.inputs.begin(),
                    [](const InputView& one, const InputView& other) {
                      return one.dims_count == other.dims_count &&
                             std::equal(one.shape + 1, one.shape + one.dims_count, other.shape + 1);
                    });
}

Status CheckInput(const Port& port, const InputView& input, bool batches) {
  const std::string what = "input '" + port.name + "' ";
  if (input.datatype != port.datatype) {
    return {Code::kInvalidArgument,
            what + "has datatype " + DataTypeName(input.datatype) + ", the model takes " + DataTypeName(port.datatype)};
  }
  const std::string shape = ShapeText(input.shape, input.dims_count);
  if (port.rank_known) {
    bool fits = input.dims_count == port.dims.size();
    for (std::size_t index = 0; fits && index < port.dims.size(); ++index) {
      fits = port.dims[index] == -1 || port.dims[index] == input.shape[index];
    }
    if (!fits) {
      return {Code::kInvalidArgument, what + "has shape " + shape + ", the model takes " + ShapeText(port.dims)};
    }
  }
  if (batches && input.dims_count == 0) {
    return {Code::kInvalidArgument, what + "has no batch dimension"};
  }
  const std::uint64_t expected = ElementCount(ToShape(input)) * DataTypeSize(port.datatype);
  if (port.datatype != TRITONSERVER_TYPE_BYTES && expected != input.byte_size) {
    return {Code::kInvalidArgument, what + "has " + std::to_string(input.byte_size) + " bytes, its shape " + shape +
                                        " needs " + std::to_string(expected)};
  }
  return {};
}

Status CopyStrings(const InputView& input, std::string* target) {
  std::vector<char> bytes(input.byte_size);
  MESH_RETURN_IF_ERROR(CopyInput(input, bytes.data()));
  Status status = ParseStrings(bytes.data(), bytes.size(), ElementCount(ToShape(input)), target);
  return status.ok() ? status : Status(status.code(), "input '" + std::string(input.name) + "': " + status.message());
}

}  // namespace

Instance::Instance(OpenVinoModel& model, TRITONBACKEND_ModelInstance* handle)
    : model_(model),
      handle_(handle),
      request_(model.NewRequest()),
      stateful_(!request_.query_state().empty()),
      gathered_(model.inputs().size()),
      sinks_(model.outputs().size()) {}

void Instance::Execute(TRITONBACKEND_Request** requests, std::uint32_t count) {
  const std::uint64_t exec_start = SteadyNs();
  std::vector<Item> items(count);
  for (std::uint32_t index = 0; index < count; ++index) {
    items[index].request = requests[index];
    items[index].status = Guarded([&] { return Prepare(&items[index]); });
  }
  for (const Group& group : Split(items)) {
    Run(group, exec_start);
  }
  const Timeline refused{exec_start, exec_start, exec_start, SteadyNs()};
  for (Item& item : items) {
    if (!item.status.ok() && item.request != nullptr) {
      Finish(handle_, item.request, &item.response, item.status, refused);
    }
  }
}

Status Instance::Prepare(Item* item) const {
  Result<Response> response = Response::New(item->request);
  if (!response.ok()) {
    return response.status();
  }
  item->response = std::move(response).value();
  if (IsCancelled(item->request)) {
    return {Code::kCancelled, "the request was cancelled before it was computed"};
  }
  MESH_RETURN_IF_ERROR(TakeInputs(item));
  MESH_RETURN_IF_ERROR(CheckShapes(*item));
  Result<std::vector<std::string>> outputs = RequestedOutputs(item->request);
  if (!outputs.ok()) {
    return outputs.status();
  }
  const std::vector<std::string>& names = outputs.value();
  for (std::size_t index = 0; index < model_.outputs().size(); ++index) {
    if (std::find(names.begin(), names.end(), model_.outputs()[index].name) != names.end()) {
      item->wanted.push_back(index);
    }
  }
  return {};
}

Status Instance::TakeInputs(Item* item) const {
  for (const Port& port : model_.inputs()) {
    Result<InputView> input = FindInput(item->request, port.name);
    if (!input.ok()) {
      return {Code::kInvalidArgument, input.status().message()};
    }
    MESH_RETURN_IF_ERROR(CheckInput(port, input.value(), model_.batches()));
    const auto rows = model_.batches() ? static_cast<std::size_t>(input.value().shape[0]) : 1;
    if (!item->inputs.empty() && rows != item->rows) {
      return {Code::kInvalidArgument, "input '" + port.name + "' has a batch of " + std::to_string(rows) +
                                          ", another input has " + std::to_string(item->rows)};
    }
    item->rows = rows;
    item->inputs.push_back(input.value());
  }
  return {};
}

// The batch stays open, so that one answer holds for every number of rows.
Status Instance::CheckShapes(const Item& item) const {
  if (model_.guard() == nullptr) {
    return {};
  }
  std::vector<ov::PartialShape> shapes;
  for (const InputView& input : item.inputs) {
    ov::PartialShape shape(ToShape(input));
    if (model_.batches()) {
      shape[0] = ov::Dimension::dynamic();
    }
    shapes.push_back(shape);
  }
  return model_.guard()->Check(shapes);
}

std::vector<Instance::Group> Instance::Split(std::vector<Item>& items) const {
  std::vector<Group> groups;
  for (Item& item : items) {
    if (!item.status.ok()) {
      continue;
    }
    const auto fitting = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
      return model_.batches() && SameRows(*group.front(), item);
    });
    if (fitting == groups.end()) {
      groups.push_back({&item});
    } else {
      fitting->push_back(&item);
    }
  }
  return groups;
}

void Instance::Run(const Group& group, std::uint64_t exec_start) {
  Timeline times;
  times.exec_start = exec_start;
  const Status status = Guarded([&] { return Infer(group, &times); });
  if (!status.ok() && group.size() > 1) {
    for (Item* item : group) {
      RunAlone(item);
    }
    return;
  }
  times.exec_end = SteadyNs();
  if (status.ok()) {
    std::uint64_t rows = 0;
    for (const Item* item : group) {
      rows += item->rows;
    }
    ReportBatch(handle_, rows, times);
  }
  for (Item* item : group) {
    if (!status.ok()) {
      item->status = Status(status.code(), WithoutTrace(status.message()));
    }
    Finish(handle_, item->request, &item->response, item->status, times);
    item->request = nullptr;
  }
}

// A second try, with a fresh response: the first may have outputs already.
void Instance::RunAlone(Item* item) {
  Result<Response> response = Response::New(item->request);
  if (!response.ok()) {
    item->status = response.status();
    return;
  }
  item->response = std::move(response).value();
  Run({item}, SteadyNs());
}

Status Instance::Infer(const Group& group, Timeline* times) {
  std::size_t rows = 0;
  for (const Item* item : group) {
    rows += item->rows;
  }
  for (std::size_t index = 0; index < model_.inputs().size(); ++index) {
    MESH_RETURN_IF_ERROR(BindInput(index, group));
  }
  MESH_RETURN_IF_ERROR(BindOutputs(group, rows));
  if (stateful_) {
    request_.reset_state();  // requests of different clients must not see each other's state
  }
  times->compute_start = SteadyNs();
  request_.infer();
  times->compute_end = SteadyNs();
  return Deliver(group, rows);
}

// The bytes of a lone request are used where they lie; those of several are put one after another.
Status Instance::BindInput(std::size_t index, const Group& group) {
  const InputView& first = group.front()->inputs[index];
  ov::Shape shape = ToShape(first);
  if (group.size() == 1) {
    Result<bool> bound = BindInPlace(model_.inputs()[index], first);
    if (!bound.ok()) {
      return bound.status();
    }
    if (bound.value()) {
      return {};
    }
    return Gather(index, group, shape);
  }
  shape[0] = 0;
  for (const Item* item : group) {
    shape[0] += item->rows;
  }
  return Gather(index, group, shape);
}

// False where the bytes must be copied: strings, and what is empty, in several pieces or badly aligned.
Result<bool> Instance::BindInPlace(const Port& port, const InputView& input) {
  if (port.datatype == TRITONSERVER_TYPE_BYTES || input.byte_size == 0) {
    return false;
  }
  Result<const void*> data = ContiguousInput(input);
  if (!data.ok()) {
    return data.status();
  }
  const auto address = reinterpret_cast<std::uintptr_t>(data.value());
  if (address == 0 || address % port.element.size() != 0) {
    return false;
  }
  request_.set_input_tensor(port.index, ov::Tensor(port.element, ToShape(input), data.value()));
  return true;
}

Status Instance::Gather(std::size_t index, const Group& group, const ov::Shape& shape) {
  const Port& port = model_.inputs()[index];
  ov::Tensor& target = gathered_[index];
  if (!target) {
    target = ov::Tensor(port.element, shape);
  }
  target.set_shape(shape);
  std::size_t offset = 0;
  for (const Item* item : group) {
    const InputView& input = item->inputs[index];
    if (port.datatype == TRITONSERVER_TYPE_BYTES) {
      MESH_RETURN_IF_ERROR(CopyStrings(input, target.data<std::string>() + offset));
      offset += ElementCount(ToShape(input));
    } else {
      MESH_RETURN_IF_ERROR(CopyInput(input, static_cast<char*>(target.data()) + offset));
      offset += input.byte_size;
    }
  }
  request_.set_input_tensor(port.index, target);
  return {};
}

Status Instance::BindOutputs(const Group& group, std::size_t rows) {
  const std::vector<Port>& ports = model_.outputs();
  for (std::size_t index = 0; index < ports.size(); ++index) {
    if (index == 0 || ports[index].index != ports[index - 1].index) {  // else bound already, under another name
      MESH_RETURN_IF_ERROR(BindOutput(index, group, rows));
    }
  }
  return {};
}

// Bound anew for every execution: the tensor of the last one may point to a buffer of Triton's that is gone.
Status Instance::BindOutput(std::size_t index, const Group& group, std::size_t rows) {
  const Port& port = model_.outputs()[index];
  Sink& sink = sinks_[index];
  sink.direct = false;
  ov::Shape shape;
  if (port.datatype == TRITONSERVER_TYPE_BYTES || !PredictShape(port, model_.batches(), rows, &shape)) {
    return {};
  }
  const std::size_t size = ElementCount(shape) * port.element.size();
  if (port.alone && group.size() == 1 && size != 0 && Wants(*group.front(), index)) {
    Result<void*> buffer = group.front()->response.Output(port.name, port.datatype,
                                                          std::vector<std::int64_t>(shape.begin(), shape.end()), size);
    if (!buffer.ok()) {
      return buffer.status();
    }
    sink.direct = true;
    request_.set_output_tensor(port.index, ov::Tensor(port.element, shape, buffer.value()));
    return {};
  }
  if (!sink.owned) {
    sink.owned = ov::Tensor(port.element, shape);
  }
  sink.owned.set_shape(shape);
  request_.set_output_tensor(port.index, sink.owned);
  return {};
}

Status Instance::Deliver(const Group& group, std::size_t rows) {
  for (std::size_t index = 0; index < model_.outputs().size(); ++index) {
    MESH_RETURN_IF_ERROR(DeliverOutput(index, group, rows));
  }
  return DeliverStates(group);
}

Status Instance::DeliverOutput(std::size_t index, const Group& group, std::size_t rows) {
  const Port& port = model_.outputs()[index];
  const ov::Tensor tensor = request_.get_output_tensor(port.index);
  const ov::Shape& shape = tensor.get_shape();
  if (model_.batches() && (shape.empty() || shape.front() != rows)) {
    return {Code::kInternal, "output '" + port.name + "' has shape " + shape.to_string() + " for a batch of " +
                                 std::to_string(rows) + "; the model cannot batch, set max_batch_size to 0"};
  }
  if (sinks_[index].direct) {
    return {};
  }
  std::size_t row = 0;
  for (Item* item : group) {
    if (Wants(*item, index)) {
      const auto target = [&](const std::vector<std::int64_t>& dims, std::size_t size) {
        return item->response.Output(port.name, port.datatype, dims, size);
      };
      MESH_RETURN_IF_ERROR(CopyRows(port, tensor, model_.batches(), row, item->rows, target));
    }
    row += item->rows;
  }
  return {};
}

Status Instance::DeliverStates(const Group& group) {
  for (const std::size_t index : model_.states()) {
    const Port& port = model_.outputs()[index];
    const ov::Tensor tensor = request_.get_output_tensor(port.index);
    std::size_t row = 0;
    for (const Item* item : group) {
      StateValue state;
      const auto target = [&](const std::vector<std::int64_t>& dims, std::size_t size) -> Result<void*> {
        Result<StateValue> made = NewState(item->request, port.name, port.datatype, dims, size);
        if (!made.ok()) {
          return made.status();
        }
        state = made.value();
        return state.buffer;
      };
      MESH_RETURN_IF_ERROR(CopyRows(port, tensor, model_.batches(), row, item->rows, target));
      MESH_RETURN_IF_ERROR(KeepState(state));
      row += item->rows;
    }
  }
  return {};
}

}  // namespace mesh::backend
