// One instance of a model: an OpenVINO infer request that Triton drives from one thread at a time.
#pragma once

#include <openvino/openvino.hpp>
#include <vector>

#include "backends/common/request.h"
#include "backends/openvino/model.h"
#include "common/status.h"

namespace mesh::backend {

// One Triton request on its way through an execution.
struct Item {
  TRITONBACKEND_Request* request = nullptr;
  Response response;
  Status status;
  std::vector<InputView> inputs;    // in the order of the model's
  std::vector<std::size_t> wanted;  // indices of OpenVinoModel::outputs()
  std::size_t rows = 1;             // of the batch; 1 for a model without batches
};

class Instance {
 public:
  Instance(OpenVinoModel& model, TRITONBACKEND_ModelInstance* handle);

  // Answers every request. Requests with equal shapes are computed together; one that is wrong in itself is answered
  // with its error and leaves the others alone, and where computing a group fails, its requests are tried one by one.
  void Execute(TRITONBACKEND_Request** requests, std::uint32_t count);

 private:
  using Group = std::vector<Item*>;

  // Where OpenVINO writes an output of foreseeable shape. The others it keeps in tensors of its own.
  struct Sink {
    ov::Tensor owned;
    bool direct = false;  // this execution writes straight to Triton's buffer
  };

  Status Prepare(Item* item) const;
  Status TakeInputs(Item* item) const;
  Status CheckShapes(const Item& item) const;
  [[nodiscard]] std::vector<Group> Split(std::vector<Item>& items) const;
  void Run(const Group& group, std::uint64_t exec_start);
  void RunAlone(Item* item);
  Status Infer(const Group& group, Timeline* times);
  Status BindInput(std::size_t index, const Group& group);
  Result<bool> BindInPlace(const Port& port, const InputView& input);
  Status Gather(std::size_t index, const Group& group, const ov::Shape& shape);
  Status BindOutputs(const Group& group, std::size_t rows);
  Status BindOutput(std::size_t index, const Group& group, std::size_t rows);
  Status Deliver(const Group& group, std::size_t rows);
  Status DeliverOutput(std::size_t index, const Group& group, std::size_t rows);
  Status DeliverStates(const Group& group);

  OpenVinoModel& model_;
  TRITONBACKEND_ModelInstance* handle_;
  ov::InferRequest request_;
  bool stateful_;
  std::vector<ov::Tensor> gathered_;  // by input: where several requests, or unaligned bytes, are put together
  std::vector<Sink> sinks_;           // by OpenVinoModel::outputs()
};

}  // namespace mesh::backend
