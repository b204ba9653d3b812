// Says before an inference whether a model can compute inputs of given shapes.
//
// OpenVINO's CPU plug-in does not check shapes while it computes: tensors that do not fit each other (two that are
// added and differ in length, say) make it read beyond their ends and answer with rubbish. Its graph of operators does
// check them. So a copy of the graph, without its weights, is asked once for every new combination of shapes.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <openvino/openvino.hpp>
#include <vector>

#include "common/status.h"

namespace mesh::backend {

class ShapeGuard {
 public:
  // Copies `model` and drops its weights.
  explicit ShapeGuard(const ov::Model& model);

  // INVALID_ARGUMENT, in OpenVINO's words, when an operator refuses these shapes of the model's inputs, given in
  // order. Safe to call from several threads. Shapes that depend on values are not seen.
  Status Check(const std::vector<ov::PartialShape>& shapes);

  // The same, and the shapes of the model's outputs that follow.
  Status Infer(const std::vector<ov::PartialShape>& shapes, std::vector<ov::PartialShape>* outputs);

 private:
  using Key = std::vector<std::int64_t>;

  Status Reshape(const std::vector<ov::PartialShape>& shapes);

  std::mutex mutex_;
  std::shared_ptr<ov::Model> model_;  // guarded by mutex_
  std::map<Key, Status> known_;       // guarded by mutex_; bounded
};

}  // namespace mesh::backend
