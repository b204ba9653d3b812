// serving._genai: functions of OpenVINO GenAI that its Python module lacks, found by name in the loaded library.
//
//  - `step` of a pipeline without the GIL: the module's own holds it, so that nothing else of the process runs.
//  - xgrammar's readers of grammars, to tell what is wrong with one before a step fails of it, and to write a JSON
//  schema
//    as a grammar without free whitespace, which OpenVINO GenAI has no option for.
#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace py = pybind11;

// The name is all that counts: by it pybind11 finds what the other module made. Nothing of it is touched here.
namespace ov::genai {
class ContinuousBatchingPipeline {};
}  // namespace ov::genai

namespace {

// xgrammar::Grammar is a shared pointer to what it hides, and is returned like one.
struct Grammar {
  std::shared_ptr<void> hidden;
};

using Text = const std::string&;
using Step = void (*)(ov::genai::ContinuousBatchingPipeline*);
using FromRegex = Grammar (*)(Text, bool);
using FromEbnf = Grammar (*)(Text, Text);
using FromSchema = Grammar (*)(Text, bool, std::optional<int>, std::optional<std::pair<std::string, std::string>>, bool,
                               std::optional<int>, bool);
using ToString = std::string (*)(const Grammar*);

class GenAi {
 public:
  // The names hold the types of all arguments, so a library whose functions differ has none of these.
  explicit GenAi(const std::string& library) : library_(dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD)) {
    if (library_ == nullptr) throw std::runtime_error(library + " is not loaded");
    step_ = Find<Step>("_ZN2ov5genai26ContinuousBatchingPipeline4stepEv");
    from_regex_ =
        Find<FromRegex>("_ZN8xgrammar7Grammar9FromRegexERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEb");
    from_ebnf_ =
        Find<FromEbnf>("_ZN8xgrammar7Grammar8FromEBNFERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEES8_");
    from_schema_ = Find<FromSchema>(
        "_ZN8xgrammar7Grammar14FromJSONSchemaERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEb"
        "St8optionalIiES9_ISt4pairIS6_S6_EEbSA_b");
    to_string_ = Find<ToString>("_ZNK8xgrammar7Grammar8ToStringB5cxx11Ev");
  }

  void StepWithoutGil(ov::genai::ContinuousBatchingPipeline& pipeline) const {
    const py::gil_scoped_release released;
    step_(&pipeline);
  }

  // The arguments are the defaults of xgrammar, which OpenVINO GenAI uses.
  void CheckRegex(const std::string& text) const {
    const py::gil_scoped_release released;
    static_cast<void>(from_regex_(text, false));
  }
  void CheckGrammar(const std::string& text) const {
    const py::gil_scoped_release released;
    static_cast<void>(from_ebnf_(text, "root"));
  }
  // All but the whitespace (the first `false`) as above: `{"a": 1, "b": [2]}` on one line, so that no model can fill
  // what it may write with blanks for ever.
  std::string SchemaGrammar(const std::string& text) const {
    const py::gil_scoped_release released;
    const Grammar grammar = from_schema_(text, false, std::nullopt, std::nullopt, true, std::nullopt, false);
    return to_string_(&grammar);
  }

 private:
  template <typename Function>
  Function Find(const char* name) const {
    void* found = dlsym(library_, name);
    if (found == nullptr) throw std::runtime_error(std::string("this version of OpenVINO GenAI has no ") + name);
    return reinterpret_cast<Function>(found);
  }

  void* library_;  // stays loaded: Python's module holds it
  Step step_;
  FromRegex from_regex_;
  FromEbnf from_ebnf_;
  FromSchema from_schema_;
  ToString to_string_;
};

}  // namespace

PYBIND11_MODULE(_genai, module) {
  module.doc() =
      "What OpenVINO GenAI's Python module lacks: steps without the GIL, checks of grammars, JSON on one line.";
  // pybind11 looks for another module's object only when it knows the type itself.
  using Pipeline = ov::genai::ContinuousBatchingPipeline;
  const py::class_<Pipeline, std::unique_ptr<Pipeline, py::nodelete>> known(module, "_Pipeline", py::module_local());
  py::class_<GenAi>(module, "GenAi")
      .def(py::init<const std::string&>(), py::arg("library"))
      .def("step", &GenAi::StepWithoutGil, py::arg("pipeline"))
      .def("check_regex", &GenAi::CheckRegex, py::arg("text"))
      .def("check_grammar", &GenAi::CheckGrammar, py::arg("text"))
      .def("schema_grammar", &GenAi::SchemaGrammar, py::arg("text"));
}
