import CShims
import Glibc
import SystemPackage

/// A BPF map that several objects share by its name.
public final class BPFMap: Sendable {
  let name: String
  let fd: Int32

  init(
    _ name: String, _ type: bpf_map_type, keySize: Int = 0, valueSize: Int = 0, maxEntries: Int,
    flags: UInt32 = 0
  ) throws(BPFObject.Failure) {
    bpftune_bpf_capture_log()
    var options = bpf_map_create_opts()
    options.sz = MemoryLayout<bpf_map_create_opts>.size
    options.map_flags = flags
    fd = bpf_map_create(
      type, name, UInt32(keySize), UInt32(valueSize), UInt32(maxEntries), &options)
    guard fd >= 0 else {
      throw BPFObject.Failure("create map \(name)", errno: Errno(rawValue: -fd))
    }
    self.name = name
  }

  /// One that a loaded object has.
  init(_ name: String, duplicating other: Int32) throws(BPFObject.Failure) {
    fd = fcntl(other, F_DUPFD_CLOEXEC, 0)
    guard fd >= 0 else { throw BPFObject.Failure("duplicate map \(name)") }
    self.name = name
  }

  private init(_ name: String, owning fd: Int32) {
    self.name = name
    self.fd = fd
  }

  deinit { close(fd) }

  /// The maps of that name on this machine, of whatever process. Needs
  /// CAP_SYS_ADMIN.
  public static func all(named name: String) -> [BPFMap] {
    var found: [BPFMap] = []
    var id: UInt32 = 0
    while bpf_map_get_next_id(id, &id) == 0 {
      let fd = bpf_map_get_fd_by_id(id)
      guard fd >= 0 else { continue }
      let map = BPFMap(name, owning: fd)
      guard let info = map.info else { continue }
      let itsName = withUnsafeBytes(of: info.name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if itsName == name { found.append(map) }
    }
    return found
  }

  private var info: bpf_map_info? {
    var info = bpf_map_info()
    var size = UInt32(MemoryLayout<bpf_map_info>.size)
    return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 ? info : nil
  }

  /// Its keys with their values, as bytes. What is added or removed meanwhile
  /// may be in it or not.
  public func entries() -> [(key: [UInt8], value: [UInt8])] {
    guard let info else { return [] }
    var found: [(key: [UInt8], value: [UInt8])] = []
    var key: [UInt8]?
    var next = [UInt8](repeating: 0, count: Int(info.key_size))
    var value = [UInt8](repeating: 0, count: Int(info.value_size))
    while found.count < Int(info.max_entries), bpf_map_get_next_key(fd, key, &next) == 0 {
      if bpf_map_lookup_elem(fd, next, &value) == 0 { found.append((next, value)) }
      key = next
    }
    return found
  }

  /// Sets the entry of an array that has one.
  public func set(to values: [UInt32]) throws(BPFObject.Failure) {
    guard let info, Int(info.value_size) == values.count * 4 else {
      throw BPFObject.Failure("update map \(name)", errno: .invalidArgument)
    }
    var zero: UInt32 = 0
    let result = bpf_map_update_elem(fd, &zero, values, 0)
    guard result == 0 else {
      throw BPFObject.Failure("update map \(name)", errno: Errno(rawValue: -result))
    }
  }

  func remove(key: [UInt8]) { _ = bpf_map_delete_elem(fd, key) }

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
