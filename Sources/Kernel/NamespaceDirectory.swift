import CShims
import Glibc
import SystemPackage

/// Finds network namespaces and enters them.
///
/// It holds no descriptor on any namespace but the daemon's own, so it keeps
/// none alive: a namespace is found again each time, by where it was seen last
/// and otherwise by looking everywhere, and verified before anything is done
/// in it. It runs on the kernel loop's thread only, since `setns` is per thread,
/// and nothing else runs there before it has come back.
public actor NamespaceDirectory {
  private let loop: KernelLoop
  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  public enum Failure: Error, Sendable, CustomStringConvertible {
    /// No process and no mount leads to it any more: a normal outcome.
    case gone(NamespaceID)
    case failed(NamespaceID, SystemCallFailure)

    public var description: String {
      switch self {
      case .gone(let id): "\(id) is gone"
      case .failed(let id, let failure): "entering \(id): \(failure)"
      }
    }
  }

  /// Where a namespace can be opened.
  public enum Place: Hashable, Sendable {
    /// A mount such as /run/netns/NAME.
    case mount(path: String)
    /// A process or thread inside.
    case process(Int32)

    var path: String {
      switch self {
      case .mount(let path): path
      case .process(let pid): "/proc/\(pid)/ns/net"
      }
    }
  }

  /// The namespace that the daemon was started in; the host's, called `init`.
  public nonisolated let own: NamespaceID
  private let ownDescriptor: FileDescriptor
  /// Whether this kernel tells cookies to user space; if not, they are all 0.
  public nonisolated let hasCookies: Bool
  private var lastSeen: [NamespaceID: Place] = [:]

  public init(loop: KernelLoop) throws(SystemCallFailure) {
    self.loop = loop
    let descriptor = try descriptor(of: "open /proc/self/ns/net") {
      Glibc.open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)
    }
    ownDescriptor = descriptor
    var cookie: UInt64 = 0
    hasCookies = bpftune_netns_cookie(&cookie) == 0
    own = NamespaceID(
      cookie: hasCookies ? cookie : 0, inode: try Self.inode(of: descriptor.rawValue))
  }

  deinit { try? ownDescriptor.close() }

  // MARK: Entering

  /// Runs `body` inside the namespace, and comes back whatever happens.
  /// What `body` throws comes out as it is in `Result`.
  public func inside<R: Sendable, E: Error>(
    _ id: NamespaceID, _ body: @Sendable () throws(E) -> R
  ) throws(Failure) -> Result<R, E> {
    if id == own { return Result(catching: body) }
    let fd = try open(id)
    defer { close(fd) }
    guard bpftune_netns_enter(fd) == 0 else {
      throw .failed(id, SystemCallFailure("setns", "\(id)"))
    }
    defer {
      // Going on in the wrong namespace would change values of another.
      guard bpftune_netns_enter(ownDescriptor.rawValue) == 0 else {
        fatalError("cannot return from \(id): \(Errno(rawValue: Glibc.errno))")
      }
    }
    guard cookieMatches(id) else {
      lastSeen[id] = nil
      throw .gone(id)
    }
    return Result(catching: body)
  }

  /// The identity of the namespace at a place; nil when nothing is there.
  public func identify(_ place: Place) -> NamespaceID? {
    let fd = Glibc.open(place.path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    guard let inode = try? Self.inode(of: fd), inode != own.inode else { return nil }
    var cookie: UInt64 = 0
    if hasCookies {
      guard bpftune_netns_enter(fd) == 0 else { return nil }
      let result = bpftune_netns_cookie(&cookie)
      guard bpftune_netns_enter(ownDescriptor.rawValue) == 0 else {
        fatalError("cannot return from \(place.path): \(Errno(rawValue: Glibc.errno))")
      }
      guard result == 0 else { return nil }
    }
    let id = NamespaceID(cookie: cookie, inode: inode)
    lastSeen[id] = place
    return id
  }

  private func cookieMatches(_ id: NamespaceID) -> Bool {
    guard hasCookies, id.cookie != 0 else { return true }
    var cookie: UInt64 = 0
    return bpftune_netns_cookie(&cookie) == 0 && cookie == id.cookie
  }

  private func open(_ id: NamespaceID) throws(Failure) -> Int32 {
    if let place = lastSeen[id], let fd = open(id, at: place) { return fd }
    let found = reachable()
    if let place = found[id.inode], let fd = open(id, at: place) {
      lastSeen[id] = place
      // That took a while. Others whose process has ended since are found at once.
      for other in lastSeen.keys { if let place = found[other.inode] { lastSeen[other] = place } }
      return fd
    }
    lastSeen[id] = nil
    throw .gone(id)
  }

  private func open(_ id: NamespaceID, at place: Place) -> Int32? {
    let fd = Glibc.open(place.path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return nil }
    if (try? Self.inode(of: fd)) == id.inode { return fd }
    close(fd)
    return nil
  }

  private static func inode(of fd: Int32) throws(SystemCallFailure) -> UInt32 {
    var status = stat()
    guard fstat(fd, &status) == 0 else { throw SystemCallFailure("fstat", "a namespace") }
    return UInt32(truncatingIfNeeded: status.st_ino)
  }

  // MARK: Finding

  /// Remembers where a namespace was seen, so that it is found faster.
  public func note(_ id: NamespaceID, at place: Place) {
    if lastSeen[id] == nil { lastSeen[id] = place }
  }

  /// Whether it can still be opened where it was seen last.
  public func isWhereSeen(_ id: NamespaceID) -> Bool {
    guard let place = lastSeen[id], let fd = open(id, at: place) else { return false }
    close(fd)
    return true
  }

  public func forget(_ id: NamespaceID) { lastSeen[id] = nil }

  /// A name that people know: of the mount, else of a process inside.
  public func name(of id: NamespaceID) -> String {
    if id == own { return "init" }
    if let path = Self.mounted()[id.inode] {
      return path.split(separator: "/").last.map(String.init) ?? path
    }
    guard case .process(let pid)? = lastSeen[id] ?? reachable()[id.inode],
      let comm = try? contents(of: "/proc/\(pid)/comm", limit: 64)
    else { return "" }
    return String(decoding: comm, as: UTF8.self).split(separator: "\n").first.map(String.init) ?? ""
  }

  /// The inode number of the namespace that is mounted under a name, or at a
  /// path.
  public func inode(named name: String) -> UInt32? {
    Self.mounted().first { $0.value == name || $0.value.hasSuffix("/" + name) }?.key
  }

  /// Every namespace that a mount or a process leads to, by inode number,
  /// without the daemon's own.
  public func reachable() -> [UInt32: Place] {
    var found: [UInt32: Place] = [:]
    for pid in Self.processes() {
      if let inode = Self.namespaceInode(ofProcess: pid), inode != own.inode, found[inode] == nil {
        found[inode] = .process(pid)
      }
    }
    // A mount lasts longer than a process: it goes first, unless another hides it.
    for (inode, path) in Self.mounted() where inode != own.inode && access(path, F_OK) == 0 {
      found[inode] = .mount(path: path)
    }
    return found
  }

  /// Namespaces bound to a path, from /proc/self/mountinfo, where the root of
  /// such a mount reads `net:[4026532281]` (Documentation/filesystems/proc.rst).
  private static func mounted() -> [UInt32: String] {
    guard let bytes = try? contents(of: "/proc/self/mountinfo") else { return [:] }
    var found: [UInt32: String] = [:]
    for line in bytes.split(separator: UInt8(ascii: "\n")) {
      let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 5)
      guard fields.count > 4, let inode = inode(inLink: fields[3]) else { continue }
      found[inode] = String(decoding: fields[4], as: UTF8.self)
    }
    return found
  }

  private static func inode(inLink text: some Collection<UInt8>) -> UInt32? {
    guard text.starts(with: "net:[".utf8) else { return nil }
    return UInt32(String(decoding: text.dropFirst(5).dropLast(), as: UTF8.self))
  }

  private static func namespaceInode(ofProcess pid: Int32) -> UInt32? {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 64) { buffer in
      guard let base = buffer.baseAddress else { return nil }
      let count = readlink("/proc/\(pid)/ns/net", base, buffer.count)
      return count > 0 ? inode(inLink: buffer[..<count]) : nil
    }
  }

  private static func processes() -> [Int32] {
    guard let directory = opendir("/proc") else { return [] }
    defer { closedir(directory) }
    var pids: [Int32] = []
    while let entry = readdir(directory) {
      let pid = withUnsafeBytes(of: entry.pointee.d_name) { name in
        Int32(String(decoding: name.prefix { $0 != 0 }, as: UTF8.self))
      }
      if let pid { pids.append(pid) }
    }
    return pids
  }
}
