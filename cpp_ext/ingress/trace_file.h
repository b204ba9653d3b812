// Where traces go: the JSON files of `tritonserver` in its trace mode `triton`.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

namespace mesh::ingress {

// Each file holds one JSON array of objects. Traces come as the texts of such objects, with commas between them.
// Thread-safe. What cannot be written is logged and lost: a request does not fail because of its trace.
class TraceFile {
 public:
  // Nothing is opened before the first trace. All files of one object together stay below `max_bytes`.
  TraceFile(std::string path, std::uint64_t max_bytes);
  ~TraceFile();  // ends the array
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  // No more traces are to be made: the limit is reached.
  [[nodiscard]] bool full() const { return full_.load(std::memory_order_relaxed); }

  // To the array of the file itself, which what an earlier process left there is lost for.
  void Append(std::string_view traces);
  // As the whole array of a file <path>.<n>; n counts from 0.
  void WriteNext(std::string_view traces);

 private:
  bool Room(std::size_t bytes);  // with mutex_ held
  void Write(int file, std::string_view text) const;

  const std::string path_;
  const std::uint64_t max_bytes_;
  std::atomic<bool> full_{false};
  std::mutex mutex_;           // guards what follows
  std::uint64_t written_ = 0;  // bytes, in all files
  std::uint64_t next_ = 0;
  int file_ = -1;
};

}  // namespace mesh::ingress
