#include "triton/elf.h"

#include <elf.h>

#include <cstring>
#include <fstream>

namespace mesh::triton {
namespace {

// Reads ranges of a file; every read is checked, since the file may be anything.
class Image {
 public:
  explicit Image(const std::string& file) : file_(file, std::ios::binary) {}

  template <typename T>
  bool Read(std::uint64_t offset, T* value) {
    return ReadBytes(offset, reinterpret_cast<char*>(value), sizeof(T));
  }

  bool ReadBytes(std::uint64_t offset, char* data, std::size_t size) {
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(offset));
    return static_cast<bool>(file_.read(data, static_cast<std::streamsize>(size)));
  }

  bool ReadString(std::uint64_t offset, std::string* text) {
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(offset));
    return static_cast<bool>(std::getline(file_, *text, '\0'));
  }

 private:
  std::ifstream file_;
};

struct Dynamic {
  std::vector<Elf64_Phdr> loads;
  std::vector<std::uint64_t> needed;  // offsets into the string table
  std::uint64_t strings = 0;          // its address
};

bool ReadDynamicSegment(Image* image, const Elf64_Phdr& segment, Dynamic* dynamic) {
  for (std::uint64_t at = 0; at + sizeof(Elf64_Dyn) <= segment.p_filesz; at += sizeof(Elf64_Dyn)) {
    Elf64_Dyn entry{};
    if (!image->Read(segment.p_offset + at, &entry)) return false;
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag == DT_NEEDED) dynamic->needed.push_back(entry.d_un.d_val);
    if (entry.d_tag == DT_STRTAB) dynamic->strings = entry.d_un.d_ptr;
  }
  return true;
}

bool ReadDynamic(Image* image, const Elf64_Ehdr& header, Dynamic* dynamic) {
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    if (!image->Read(header.e_phoff + static_cast<std::uint64_t>(i) * sizeof(segment), &segment)) return false;
    if (segment.p_type == PT_LOAD) dynamic->loads.push_back(segment);
    if (segment.p_type == PT_DYNAMIC && !ReadDynamicSegment(image, segment, dynamic)) return false;
  }
  return true;
}

// The place in the file of an address in memory; 0 for none.
std::uint64_t FileOffset(const Dynamic& dynamic, std::uint64_t address) {
  for (const Elf64_Phdr& load : dynamic.loads) {
    if (address >= load.p_vaddr && address - load.p_vaddr < load.p_filesz) {
      return load.p_offset + (address - load.p_vaddr);
    }
  }
  return 0;
}

}  // namespace

Result<std::vector<std::string>> NeededLibraries(const std::string& file) {
  Image image(file);
  Elf64_Ehdr header{};
  const bool is_elf = image.Read(0, &header) && std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
                      header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_ident[EI_DATA] == ELFDATA2LSB &&
                      header.e_phentsize == sizeof(Elf64_Phdr);
  if (!is_elf) return Status(Code::kInvalidArgument, file + " is not a 64-bit ELF library");
  Dynamic dynamic;
  std::vector<std::string> names;
  bool whole = ReadDynamic(&image, header, &dynamic);
  const std::uint64_t strings = FileOffset(dynamic, dynamic.strings);
  for (const std::uint64_t offset : dynamic.needed) {
    std::string name;
    whole = whole && strings != 0 && image.ReadString(strings + offset, &name);
    names.push_back(std::move(name));
  }
  if (!whole) return Status(Code::kInvalidArgument, file + " is a damaged ELF library");
  return names;
}

}  // namespace mesh::triton
