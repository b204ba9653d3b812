#include "ingress/shared_memory.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <utility>

namespace mesh::ingress {
namespace {

Status NotAdmitted(const std::string& key) { return {Code::kInternal, "Invalid shared memory region: '" + key + "'"}; }

// The size of an open segment; 0 when it cannot be told.
std::uint64_t SizeOf(int fd) {
  struct stat about {};
  return fstat(fd, &about) == 0 && about.st_size > 0 ? static_cast<std::uint64_t>(about.st_size) : 0;
}

bool Fits(std::uint64_t offset, std::uint64_t size, std::uint64_t whole) {
  return offset <= whole && size <= whole - offset;
}

std::string Host(std::string_view peer) {
  const std::size_t colon = peer.rfind(':');
  std::string_view host = peer.substr(0, colon);
  if (host.size() > 1 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return std::string(host);
}

std::string AddressOf(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address == nullptr) return {};
  const void* bytes = nullptr;
  if (address->sa_family == AF_INET) bytes = &reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
  if (address->sa_family == AF_INET6) bytes = &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  if (bytes == nullptr) return {};
  return inet_ntop(address->sa_family, bytes, text.data(), text.size()) == nullptr ? "" : text.data();
}

}  // namespace

// A mapped range of a segment, and the descriptor that tells whether the segment still is as long as it was.
class SharedMemory::Mapping {
 public:
  static Result<std::shared_ptr<const Mapping>> Open(const std::string& key, std::uint64_t offset,
                                                     std::uint64_t byte_size);
  Mapping(int fd, std::uint64_t end) : fd_(fd), end_(end) {}
  ~Mapping() {
    if (base_ != nullptr) munmap(base_, mapped_);
    close(fd_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  [[nodiscard]] const char* data() const { return data_; }
  [[nodiscard]] bool whole() const { return SizeOf(fd_) >= end_; }

 private:
  const int fd_;
  const std::uint64_t end_;  // of the range, in the segment
  void* base_ = nullptr;
  std::size_t mapped_ = 0;
  const char* data_ = nullptr;
};

Result<std::shared_ptr<const SharedMemory::Mapping>> SharedMemory::Mapping::Open(const std::string& key,
                                                                                 std::uint64_t offset,
                                                                                 std::uint64_t byte_size) {
  const int fd = shm_open(key.c_str(), O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (fd < 0) return Status(Code::kInternal, "Unable to open shared memory region: '" + key + "'");
  auto mapping = std::make_shared<Mapping>(fd, offset + byte_size);
  if (byte_size == 0 || !Fits(offset, byte_size, SizeOf(fd))) return NotAdmitted(key);
  // Only whole pages can be mapped.
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t before = offset % page;
  mapping->mapped_ = before + byte_size;
  void* base =
      mmap(nullptr, mapping->mapped_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset - before));
  if (base == MAP_FAILED) return NotAdmitted(key);
  mapping->base_ = base;
  mapping->data_ = static_cast<const char*>(base) + before;
  return std::shared_ptr<const Mapping>(std::move(mapping));
}

Status SharedMemory::Register(const std::string& name, const std::string& key, std::uint64_t offset,
                              std::uint64_t byte_size) {
  Status taken(Code::kAlreadyExists, "shared memory region '" + name + "' already in manager");
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (regions_.count(name) > 0) return taken;
  }
  Result<std::shared_ptr<const Mapping>> mapping = Mapping::Open(key, offset, byte_size);
  if (!mapping.ok()) return mapping.status();
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool added = regions_.emplace(name, Region{key, offset, byte_size, std::move(mapping).value()}).second;
  return added ? Status() : taken;
}

void SharedMemory::Unregister(const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  regions_.erase(name);
}

void SharedMemory::UnregisterAll() {
  const std::lock_guard<std::mutex> lock(mutex_);
  regions_.clear();
}

Result<rpc::Slice> SharedMemory::Find(const std::string& name, std::uint64_t offset, std::uint64_t byte_size) const {
  std::shared_ptr<const Mapping> mapping;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = regions_.find(name);
    if (found == regions_.end()) return Status(Code::kNotFound, "Unable to find shared memory region: '" + name + "'");
    const Region& region = found->second;
    if (offset > region.byte_size) {
      return Status(Code::kInvalidArgument, "Invalid offset for shared memory region: '" + name + "'");
    }
    if (!Fits(offset, byte_size, region.byte_size)) {
      return Status(Code::kInvalidArgument, "Invalid offset + byte size for shared memory region: '" + name + "'");
    }
    mapping = region.mapping;
  }
  // Touching what was cut off would end the process.
  if (!mapping->whole()) {
    return Status(Code::kFailedPrecondition, "the segment of shared memory region '" + name +
                                                 "' is shorter than it was; unregister it and register it again");
  }
  const char* data = mapping->data() + offset;
  return rpc::Slice(std::move(mapping), data, byte_size);
}

Result<std::vector<SharedMemory::Description>> SharedMemory::Describe(const std::string& name) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!name.empty() && regions_.count(name) == 0) {
    return Status(Code::kNotFound, "Unable to find system shared memory region: '" + name + "'");
  }
  std::vector<Description> found;
  for (const auto& [each, region] : regions_) {
    if (name.empty() || each == name) found.push_back({each, region.key, region.offset, region.byte_size});
  }
  return found;
}

bool IsLocalPeer(std::string_view peer) {
  const std::string host = Host(peer);
  if (host == "127.0.0.1" || host == "::1") return true;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return false;
  bool local = false;
  for (const ifaddrs* each = all; each != nullptr && !local; each = each->ifa_next) {
    local = AddressOf(each->ifa_addr) == host;
  }
  freeifaddrs(all);
  return local;
}

}  // namespace mesh::ingress
