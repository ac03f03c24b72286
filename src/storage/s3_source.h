// An object of S3 as a source of ranges: what is read of it goes straight into memory.
#pragma once

#include <memory>

#include "base/byte_source.h"
#include "storage/s3_client.h"

namespace bloomery {

// The object as it is now: reading it fails with kCorrupt once it has been changed. The client must outlive
// the source.
Result<std::shared_ptr<const ByteSource>> OpenS3Object(S3Client& s3, const S3Uri& object);

}  // namespace bloomery
