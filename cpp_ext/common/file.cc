#include "common/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace mesh {
namespace {

Status FileError(const std::string& path, int error_number) {
  const Code code = error_number == ENOENT || error_number == ENOTDIR ? Code::kNotFound
                    : error_number == EACCES                          ? Code::kPermissionDenied
                                                                      : Code::kFailedPrecondition;
  return {code, "the file '" + path + "' cannot be read: " + std::strerror(error_number)};
}

Result<std::string> ReadAll(int fd, const std::string& path, std::size_t max_bytes) {
  std::string content;
  std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t count = read(fd, buffer.data(), buffer.size());
    if (count == 0) return content;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FileError(path, errno);
    content.append(buffer.data(), static_cast<std::size_t>(count));
    if (content.size() > max_bytes) {
      return Status(Code::kResourceExhausted,
                    "the file '" + path + "' is larger than " + std::to_string(max_bytes) + " bytes");
    }
  }
}

}  // namespace

Result<std::string> ReadFile(const std::string& path, std::size_t max_bytes) {
  // Not blocking: opening a named pipe would wait for its writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return FileError(path, errno);
  struct stat about {};
  Result<std::string> content = fstat(fd, &about) == 0 && S_ISREG(about.st_mode)
                                    ? ReadAll(fd, path, max_bytes)
                                    : Status(Code::kFailedPrecondition, "'" + path + "' is not a regular file");
  close(fd);
  return content;
}

}  // namespace mesh
