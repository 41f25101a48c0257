import CShims
import Glibc
import SystemPackage

/// A BPF map that several objects share by its name.
final class BPFMap {
  let name: String
  let fd: Int32

  init(
    _ name: String, _ type: bpf_map_type, keySize: Int = 0, valueSize: Int = 0, maxEntries: Int
  ) throws(BPFObject.Failure) {
    bpftune_bpf_capture_log()
    fd = bpf_map_create(
      type, name, UInt32(keySize), UInt32(valueSize), UInt32(maxEntries), nil)
    guard fd >= 0 else {
      throw BPFObject.Failure("create map \(name)", errno: Errno(rawValue: -fd))
    }
    self.name = name
  }

  deinit { close(fd) }

  func set<Value: BitwiseCopyable>(key: [UInt8], to value: Value) throws(BPFObject.Failure) {
    let result = withUnsafePointer(to: value) { bpf_map_update_elem(fd, key, $0, 0) }
    guard result == 0 else {
      throw BPFObject.Failure("update map \(name)", errno: Errno(rawValue: -result))
    }
  }

  /// The sum over all CPUs of the counter at index 0 of a per-CPU array.
  func sumOverCPUs() -> UInt64 {
    let cpus = Int(libbpf_num_possible_cpus())
    guard cpus > 0 else { return 0 }
    var values = [UInt64](repeating: 0, count: cpus)
    var zero: UInt32 = 0
    return bpf_map_lookup_elem(fd, &zero, &values) == 0 ? values.reduce(0, +) : 0
  }
}
