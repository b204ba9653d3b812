#include "proxy/waiting_room.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace mesh::proxy {
namespace {

// What is waited for. Each sequence has a line of its own, and so have the sides of traffic splits, as the endpoints of
// one may be full while others have room.
std::string LineName(const RequestHead& head) { return head.sequence + '\0' + head.target(); }

}  // namespace

void WaitingRoom::Enter(const RequestHead& head, const std::shared_ptr<Waiter>& waiter) {
  lines_[LineName(head)].push_back(waiter);
  ++size_;
}

void WaitingRoom::Leave(const RequestHead& head, const Waiter* waiter) {
  const auto line = lines_.find(LineName(head));
  if (line == lines_.end()) return;
  const auto place = std::find_if(line->second.begin(), line->second.end(),
                                  [&](const std::shared_ptr<Waiter>& one) { return one.get() == waiter; });
  if (place == line->second.end()) return;
  line->second.erase(place);
  --size_;
  if (line->second.empty()) lines_.erase(line);
}

void WaitingRoom::ServeLine(const std::string& name) {
  for (;;) {
    const auto line = lines_.find(name);
    if (line == lines_.end()) return;
    const std::shared_ptr<Waiter> first = line->second.front();
    line->second.pop_front();
    --size_;
    if (line->second.empty()) lines_.erase(line);
    if (first->TryAgain()) continue;
    lines_[name].push_front(first);
    ++size_;
    return;
  }
}

void WaitingRoom::Serve() {
  if (size_ == 0) return;
  again_ = true;
  if (serving_) return;  // from TryAgain: the loop below goes round once more
  serving_ = true;
  while (std::exchange(again_, false)) {
    std::vector<std::string> names;
    names.reserve(lines_.size());
    for (const auto& [name, line] : lines_) names.push_back(name);
    for (const std::string& name : names) ServeLine(name);
  }
  serving_ = false;
}

}  // namespace mesh::proxy
