#include "benchmarks/load_report.h"

#include <nlohmann/json.hpp>

namespace mesh::load {
namespace {

constexpr std::chrono::milliseconds kSlice{100};

}  // namespace

Report::Slice& Report::SliceOf(std::chrono::steady_clock::time_point sent) {
  const auto index = static_cast<std::size_t>((sent - start_) / kSlice);
  if (index >= slices_.size()) slices_.resize(index + 1);
  return slices_[index];
}

void Report::Sent(std::chrono::steady_clock::time_point sent) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++SliceOf(sent).sent;
  ++open_;
}

void Report::Done(std::chrono::steady_clock::time_point sent, const Status& status) {
  using std::chrono::microseconds;
  const auto took = std::chrono::duration_cast<microseconds>(std::chrono::steady_clock::now() - sent).count();
  const std::lock_guard<std::mutex> lock(mutex_);
  Slice& slice = SliceOf(sent);
  ++slice.codes[CodeName(status.code())];
  (status.ok() ? slice.ok_us : slice.failed_us).push_back(took);
  if (!status.ok()) messages_.emplace(CodeName(status.code()), status.message());
  --open_;
}

bool Report::complete() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return open_ == 0;
}

std::string Report::Json() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  nlohmann::json slices = nlohmann::json::array();
  for (const Slice& slice : slices_) {
    slices.push_back(
        {{"sent", slice.sent}, {"codes", slice.codes}, {"ok_us", slice.ok_us}, {"failed_us", slice.failed_us}});
  }
  return nlohmann::json{{"slices", slices}, {"messages", messages_}}.dump();
}

}  // namespace mesh::load
