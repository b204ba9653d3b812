#include "ingress/trace_sampler.h"

#include <exception>
#include <utility>

#include "common/log.h"
#include "triton/c_api.h"

namespace mesh::ingress {
namespace {

// `tritonserver` keeps the traces of one file in memory until the end; we let go of them at this size.
constexpr std::size_t kMaxWaitingBytes = 1UL << 20;

}  // namespace

TraceSampler::TraceSampler(const TraceValues& values, std::shared_ptr<TraceFile> file)
    : values_(values), file_(std::move(file)), count_left_(values.count) {}

TraceSampler::~TraceSampler() {
  if (text_.empty()) return;
  if (values_.log_frequency == 0) {
    file_->Append(text_);
  } else {
    file_->WriteNext(text_);
  }
}

bool TraceSampler::active() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return values_.level != 0 && count_left_ != 0;
}

bool TraceSampler::wants_timestamps() const { return (values_.level & TRITONSERVER_TRACE_LEVEL_TIMESTAMPS) != 0; }

TraceValues TraceSampler::values() const {
  TraceValues values = values_;
  const std::lock_guard<std::mutex> lock(mutex_);
  values.count = count_left_;
  return values;
}

bool TraceSampler::Next() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (values_.level == 0 || count_left_ == 0 || file_->full()) return false;
  if (++seen_ % values_.rate != 0) return false;
  if (count_left_ > 0) --count_left_;
  ++begun_;
  return true;
}

void TraceSampler::Collect(const std::string& trace) {
  std::string ready;
  bool whole_file = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++collected_;
    if (!trace.empty()) {
      if (!text_.empty()) text_ += ',';
      text_ += trace;
      ++waiting_;
    }
    const bool last = count_left_ == 0 && collected_ == begun_;
    whole_file = last || (values_.log_frequency != 0 && waiting_ >= values_.log_frequency);
    if (!whole_file && text_.size() < kMaxWaitingBytes) return;
    ready.swap(text_);
    waiting_ = 0;
  }
  if (ready.empty()) return;
  if (whole_file || values_.log_frequency != 0) {
    file_->WriteNext(ready);
  } else {
    file_->Append(ready);
  }
}

}  // namespace mesh::ingress
