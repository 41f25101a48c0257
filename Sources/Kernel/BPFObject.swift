import CShims
import Glibc
import SystemPackage

/// A BPF object from this executable: one source file in `bpf/`.
///
/// Closes everything that it opened when it is let go: programs, maps and links
/// live as long as this does, and no longer than the process.
public final class BPFObject {
  public struct Failure: Error, Sendable, CustomStringConvertible {
    /// Such as `load tcp_buffer_sock_ops`.
    public let operation: String
    public let errno: Errno
    /// The line of libbpf's or the verifier's log that says most; may be empty.
    public let detail: String

    init(_ operation: String, errno: Errno, detail: String) {
      self.operation = operation
      self.errno = errno
      self.detail = detail
    }

    init(_ operation: String, errno: Errno? = nil) {
      self.operation = operation
      self.errno = errno ?? Errno(rawValue: Glibc.errno)
      detail = Self.telling(String(cString: bpftune_bpf_log()))
      bpftune_bpf_log_clear()
    }

    public var description: String {
      detail.isEmpty ? "\(operation): \(errno)" : "\(operation): \(errno) (\(detail))"
    }

    /// libbpf's log ends with lines that repeat the error number.
    private static func telling(_ log: String) -> String {
      let noise = [
        "BPF program load failed", "failed to load", "-- BEGIN", "-- END", "processed ",
        // About RLIMIT_MEMLOCK, which no kernel since 5.11 minds.
        "permission error while running as root",
      ]
      let lines = log.split(separator: "\n").filter { line in
        !noise.contains { line.contains($0) }
      }
      return lines.last.map { String($0).replacing("libbpf: ", with: "") } ?? ""
    }
  }

  public let name: String
  private let object: OpaquePointer
  private var links: [OpaquePointer] = []

  /// Opens the object without loading it. `name` is that of its source:
  /// `tcp_buffer` for `bpf/tcp_buffer.bpf.c`.
  public convenience init(named name: String) throws(Failure) {
    guard let text = EmbeddedBPF.objects[name], let bytes = Base64.decode(text) else {
      throw Failure("find \(name)", errno: .noSuchFileOrDirectory)
    }
    try self.init(name, bytes)
  }

  /// The same for an object that comes from elsewhere.
  init(_ name: String, _ bytes: [UInt8]) throws(Failure) {
    bpftune_bpf_capture_log()
    let opened = bytes.withUnsafeBytes { bpftune_bpf_open($0.baseAddress, $0.count, name) }
    guard let opened else { throw Failure("open \(name)") }
    self.name = name
    object = opened
  }

  deinit {
    for link in links { bpf_link__destroy(link) }
    bpf_object__close(object)
  }

  // MARK: Before loading

  /// Sets a `const volatile` global, if the object has one of that name.
  func setConstant<T: BitwiseCopyable>(_ variable: String, to value: T) throws(Failure) {
    let result = withUnsafeBytes(of: value) {
      bpftune_bpf_set_constant(object, variable, $0.baseAddress, $0.count)
    }
    guard result == 0 || result == -ENOENT else {
      throw Failure("set \(variable) of \(name)", errno: Errno(rawValue: -result))
    }
  }

  /// Uses a map that exists already in place of the object's own.
  func share(_ map: BPFMap) throws(Failure) {
    guard let own = bpf_object__find_map_by_name(object, map.name) else { return }
    guard bpf_map__reuse_fd(own, map.fd) == 0 else { throw Failure("share map \(map.name)") }
  }

  /// Uses the maps that another load of the same object has made, so that its
  /// programs know the same, though each is loaded by itself.
  func shareMaps(of first: BPFObject) throws(Failure) {
    var map: OpaquePointer?
    while let current = bpf_object__next_map(first.object, map) {
      map = current
      // Constants and variables of the program itself.
      guard !bpf_map__is_internal(current),
        let own = bpf_object__find_map_by_name(object, bpf_map__name(current))
      else { continue }
      guard bpf_map__reuse_fd(own, bpf_map__fd(current)) == 0 else {
        throw Failure("share map \(String(cString: bpf_map__name(current)))")
      }
    }
  }

  /// One of its maps, once it is loaded.
  func map(_ name: String) throws(Failure) -> BPFMap? {
    guard let map = bpf_object__find_map_by_name(object, name), bpf_map__fd(map) >= 0 else {
      return nil
    }
    return try BPFMap(name, duplicating: bpf_map__fd(map))
  }

  /// Loads one program, or several, and the maps they use.
  func load(_ programs: [String]) throws(Failure) {
    for name in self.programs {
      bpf_program__set_autoload(try program(name), programs.contains(name))
    }
    bpftune_bpf_log_clear()
    let result = bpf_object__load(object)
    guard result == 0 else {
      throw Failure("load \(programs.joined(separator: ", "))", errno: Errno(rawValue: -result))
    }
  }

  // MARK: After loading

  func program(_ name: String) throws(Failure) -> OpaquePointer {
    guard let program = bpf_object__find_program_by_name(object, name) else {
      throw Failure("find program \(name)", errno: .noSuchFileOrDirectory)
    }
    return program
  }

  /// Of a loaded program; the object's own.
  func descriptor(of program: String) throws(Failure) -> Int32 {
    bpf_program__fd(try self.program(program))
  }

  func keep(_ link: OpaquePointer?, of program: String) throws(Failure) {
    guard let link else { throw Failure("attach \(program)") }
    links.append(link)
  }

  /// Attaches where the program's section says.
  func attach(_ program: String) throws(Failure) {
    try keep(bpf_program__attach(try self.program(program)), of: program)
  }

  func attach(_ program: String, cgroup: Int32) throws(Failure) {
    try keep(bpf_program__attach_cgroup(try self.program(program), cgroup), of: program)
  }

  func attach(_ program: String, tracepoint: String, category: String) throws(Failure) {
    let link = bpftune_bpf_attach_tracepoint(try self.program(program), category, tracepoint)
    try keep(link, of: program)
  }

  /// Runs an attached iterator to its end, in the calling thread's network
  /// namespace.
  func iterate() throws(Failure) {
    for link in links {
      let fd = bpf_iter_create(bpf_link__fd(link))
      guard fd >= 0 else { throw Failure("run the iterator of \(name)") }
      defer { close(fd) }
      withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 4096) { buffer in
        while case let n = read(fd, buffer.baseAddress, buffer.count),
          n > 0 || (n < 0 && errno == EAGAIN)
        {}
      }
    }
  }

  /// Runs a raw tracepoint program once, in the calling thread.
  func run(_ program: String) throws(Failure) -> UInt32 {
    var result: UInt32 = 0
    let error = bpftune_bpf_run(bpf_program__fd(try self.program(program)), &result)
    guard error == 0 else { throw Failure("run \(program)", errno: Errno(rawValue: -error)) }
    return result
  }

  /// How often a loaded program has run and for how long altogether, which the
  /// kernel counts while `kernel.bpf_stats_enabled` is set.
  func runTime(of program: String) throws(Failure) -> (calls: UInt64, nanoseconds: UInt64) {
    var info = bpf_prog_info()
    var size = UInt32(MemoryLayout<bpf_prog_info>.size)
    let fd = bpf_program__fd(try self.program(program))
    guard bpf_obj_get_info_by_fd(fd, &info, &size) == 0 else { throw Failure("ask \(program)") }
    return (info.run_cnt, info.run_time_ns)
  }

  /// Where a program's section says that it belongs: `tp_btf/neigh_create`.
  func section(of program: String) throws(Failure) -> String {
    String(cString: bpf_program__section_name(try self.program(program)))
  }

  /// The names of its programs.
  public var programs: [String] {
    var names: [String] = []
    var program = bpf_object__next_program(object, nil)
    while let current = program {
      names.append(String(cString: bpf_program__name(current)))
      program = bpf_object__next_program(object, current)
    }
    return names
  }

  /// The names and values of an enum in the object's type information.
  public func enumerators(of enumeration: String) -> [(name: String, value: Int64)] {
    Self.enumerators(of: enumeration, in: bpf_object__btf(object))
  }

  /// The same for an enum of the kernel; none where it cannot be read.
  static func kernelEnumerators(of enumeration: String) -> [(name: String, value: Int64)] {
    let types = btf__load_vmlinux_btf()
    defer { btf__free(types) }
    return enumerators(of: enumeration, in: types)
  }

  private static func enumerators(
    of enumeration: String, in types: OpaquePointer?
  ) -> [(name: String, value: Int64)] {
    var found: [(name: String, value: Int64)] = []
    var name: UnsafePointer<CChar>?
    var value: Int64 = 0
    while bpftune_bpf_enumerator(types, enumeration, Int32(found.count), &name, &value) == 0 {
      found.append((name.map { String(cString: $0) } ?? "", value))
    }
    return found
  }

  /// The names of all objects in this executable.
  public static var all: [String] { EmbeddedBPF.objects.keys.sorted() }
}
