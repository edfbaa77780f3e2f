"""The descriptor pool that holds this package's files.

Why it exists: protobuf's default pool allows one definition of a message name per process. Do not
add files of other packages to this pool; it is for the generated modules beside it.
"""

from __future__ import annotations

from google.protobuf import descriptor_pool

POOL = descriptor_pool.DescriptorPool()
