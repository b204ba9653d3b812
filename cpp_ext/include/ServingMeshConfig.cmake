# The CMake package for deployments in C++ (docs/guides/cpp.md).
#
#   find_package(ServingMesh REQUIRED)
#   serving_mesh_deployment(recommend recommend.cc features.cc)   # librecommend.so
#
# Or by hand: link a shared library with ServingMesh::deployment.
get_filename_component(_serving_mesh_root "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET ServingMesh::deployment)
  add_library(ServingMesh::deployment INTERFACE IMPORTED)
  set_target_properties(ServingMesh::deployment PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_serving_mesh_root}/include"
    INTERFACE_COMPILE_FEATURES cxx_std_17)
endif()
unset(_serving_mesh_root)

# A shared library that a replica can load: whatever it lacks is an error when it is linked, its own symbols are its own,
# and it finds libraries that lie beside it.
function(serving_mesh_deployment name)
  add_library(${name} SHARED ${ARGN})
  target_link_libraries(${name} PRIVATE ServingMesh::deployment)
  set_target_properties(${name} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
                                           BUILD_RPATH "$ORIGIN" INSTALL_RPATH "$ORIGIN")
  target_link_options(${name} PRIVATE "LINKER:-z,defs")
endfunction()
