// serving._prefix: the index of prompts for a gateway.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "prefix/index.h"

namespace py = pybind11;

namespace {

using mesh::prefix::Chain;
using mesh::prefix::Index;
using mesh::prefix::Match;
using mesh::prefix::Replica;

constexpr std::size_t kLongText = 64 << 10;  // bytes: hashing takes some ten microseconds, others may run meanwhile

class PrefixIndex {
 public:
  PrefixIndex(std::size_t max_bytes, std::size_t block_bytes, std::size_t max_blocks)
      : index_(max_bytes), block_bytes_(block_bytes), max_blocks_(max_blocks) {
    if (block_bytes == 0) throw std::invalid_argument("block_bytes: at least 1 is wanted, found 0");
    std::random_device random;
    seed_ = (static_cast<std::uint64_t>(random()) << 32U) | random();
  }

  Chain ChainOf(const std::string& scope, const py::bytes& text) const {
    const std::string_view bytes = text;
    std::optional<py::gil_scoped_release> released;
    if (bytes.size() > kLongText) released.emplace();
    return mesh::prefix::ChainOf(seed_, scope, bytes, block_bytes_, max_blocks_);
  }

  std::vector<std::pair<Replica, std::size_t>> Find(const Chain& chain) const {
    std::vector<std::pair<Replica, std::size_t>> found;
    for (const Match& match : index_.Find(chain)) found.emplace_back(match.replica, match.blocks);
    return found;
  }

  Index& index() { return index_; }
  const Index& index() const { return index_; }

 private:
  Index index_;
  const std::size_t block_bytes_;
  const std::size_t max_blocks_;
  std::uint64_t seed_ = 0;
};

}  // namespace

PYBIND11_MAKE_OPAQUE(mesh::prefix::Chain)

PYBIND11_MODULE(_prefix, module) {
  module.doc() = "Which replica has computed which beginnings of prompts.";
  py::class_<Chain>(module, "Chain").def("__len__", &Chain::size);
  py::class_<PrefixIndex>(module, "PrefixIndex")
      .def(py::init<std::size_t, std::size_t, std::size_t>(), py::kw_only(), py::arg("max_bytes"),
           py::arg("block_bytes"), py::arg("max_blocks"))
      .def("chain", &PrefixIndex::ChainOf, py::arg("scope"), py::arg("text"))
      .def("find", &PrefixIndex::Find, py::arg("chain"))
      .def(
          "insert",
          [](PrefixIndex& self, const Chain& chain, Replica replica, std::size_t max_blocks) {
            return self.index().Insert(chain, replica, max_blocks);
          },
          py::arg("chain"), py::arg("replica"), py::arg("max_blocks") = 0)
      .def(
          "trim",
          [](PrefixIndex& self, const Chain& chain, Replica replica, std::size_t blocks) {
            self.index().Trim(chain, replica, blocks);
          },
          py::arg("chain"), py::arg("replica"), py::arg("blocks"))
      .def(
          "remove", [](PrefixIndex& self, Replica replica) { self.index().Remove(replica); }, py::arg("replica"))
      .def(
          "held_blocks", [](const PrefixIndex& self, Replica replica) { return self.index().HeldBlocks(replica); },
          py::arg("replica"))
      .def_property_readonly("bytes", [](const PrefixIndex& self) { return self.index().bytes(); })
      .def_property_readonly("nodes", [](const PrefixIndex& self) { return self.index().nodes(); });
}
