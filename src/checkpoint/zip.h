// Where the entries of an uncompressed zip archive lie, so that torch's zip checkpoints can be mapped instead
// of unpacked. No archive library answers that question (they stream), hence this walk of the central
// directory; it reads offsets and sizes and never interprets an entry's bytes. Compressed, encrypted and
// multi-disk archives are refused. Format: APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.14–16;
// docs/formats/torch-zip.md.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "base/result.h"

namespace bloomery {

using ZipEntries = std::map<std::string, std::span<const std::byte>, std::less<>>;

// Views into `archive`. kCorrupt where a record contradicts the file's size, kUnsupported for what is
// refused.
Result<ZipEntries> ReadZipDirectory(std::span<const std::byte> archive);

}  // namespace bloomery
