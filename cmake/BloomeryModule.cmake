# How a folder under src/ becomes a library and a test program.
#
#   bloomery_module(checkpoint
#     SOURCES safetensors.cc …        # every .cc that is not a test
#     TESTS   safetensors_test.cc …   # becomes checkpoint_test, each case registered with ctest
#     DEPS    base tensor             # modules of lower layers
#     LIBS    OpenSSL::Crypto …)      # packaged libraries
#
#   bloomery_kernel_isa(kernels FLAGS -mavx2 -mfma SOURCES avx2/linear.cc)   # per-file instruction-set flags
#   bloomery_fuzzer(safetensors_fuzzer SOURCES … DEPS checkpoint)            # only under BLOOMERY_FUZZ

add_library(bloomery_flags INTERFACE)
target_compile_definitions(bloomery_flags INTERFACE BOOST_JSON_NO_LIB BOOST_ALLOW_DEPRECATED_HEADERS)
target_include_directories(bloomery_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_options(bloomery_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wpedantic -fno-omit-frame-pointer)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # At -O3 GCC 12's value-range warnings misfire inside fmt's and libstdc++'s inlined headers (GCC bugs 105329, 105651),
  # where no change of ours can silence them. ASan and UBSan look for the same mistakes without guessing.
  target_compile_options(bloomery_flags INTERFACE -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow
                                                  -Wno-stringop-overread)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  # libstdc++ 12's own stable_sort calls a function it deprecates; clang warns where the template is used.
  target_compile_options(bloomery_flags INTERFACE -Wno-deprecated-declarations)
endif()
if(BLOOMERY_WERROR)
  target_compile_options(bloomery_flags INTERFACE -Werror)
endif()
if(BLOOMERY_SANITIZE)
  target_compile_options(bloomery_flags INTERFACE -fsanitize=${BLOOMERY_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(bloomery_flags INTERFACE -fsanitize=${BLOOMERY_SANITIZE})
  if(BLOOMERY_SANITIZE MATCHES thread)
    # libstdc++'s atomic_thread_fence is not modelled by TSan; we do not use fences, so the warning may not hide elsewhere.
    target_compile_options(bloomery_flags INTERFACE -Wno-tsan)
  endif()
endif()
if(BLOOMERY_FUZZ)
  target_compile_options(bloomery_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

function(bloomery_module name)
  cmake_parse_arguments(ARG "" "" "SOURCES;TESTS;DEPS;LIBS;TEST_DEPS" ${ARGN})
  add_library(bloomery_${name} STATIC ${ARG_SOURCES})
  list(TRANSFORM ARG_DEPS PREPEND bloomery_)
  list(TRANSFORM ARG_TEST_DEPS PREPEND bloomery_)
  target_link_libraries(bloomery_${name} PUBLIC bloomery_flags ${ARG_DEPS} ${ARG_LIBS})
  if(ARG_TESTS)
    add_executable(${name}_test ${ARG_TESTS})
    target_link_libraries(${name}_test PRIVATE bloomery_${name} ${ARG_TEST_DEPS} GTest::gmock GTest::gtest_main)
    target_compile_definitions(${name}_test PRIVATE BLOOMERY_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                                    BLOOMERY_BINARY_DIR="${CMAKE_BINARY_DIR}")
    gtest_discover_tests(${name}_test TEST_PREFIX ${name}. DISCOVERY_MODE PRE_TEST
                         PROPERTIES TIMEOUT 600)
  endif()
endfunction()

function(bloomery_kernel_isa module)
  cmake_parse_arguments(ARG "" "" "FLAGS;SOURCES" ${ARGN})
  target_sources(bloomery_${module} PRIVATE ${ARG_SOURCES})
  set_source_files_properties(${ARG_SOURCES} PROPERTIES COMPILE_OPTIONS "${ARG_FLAGS}")
endfunction()

function(bloomery_fuzzer name)
  if(NOT BLOOMERY_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  list(TRANSFORM ARG_DEPS PREPEND bloomery_)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()
