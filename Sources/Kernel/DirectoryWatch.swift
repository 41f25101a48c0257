import Glibc
import SystemPackage

/// Tells when something changes in directories where tuners are looked for, also
/// in one that comes into being later.
///
/// Belongs to the kernel loop. While nothing changes it costs nothing.
public final class DirectoryWatch {
  private struct Watched {
    /// Tuners are looked for here.
    var hasModules = false
    /// The next component on the way to a directory that does not exist.
    var awaits: Set<String> = []
  }

  private let loop: KernelLoop
  private let inotify: FileDescriptor
  private let changed: () -> Void
  private var watched: [Int32: Watched] = [:]

  /// `changed` is called on the loop, once for what came together.
  public init(loop: KernelLoop, changed: @escaping () -> Void) throws(SystemCallFailure) {
    self.loop = loop
    self.changed = changed
    inotify = try descriptor(of: "inotify_init1") {
      inotify_init1(Int32(IN_CLOEXEC) | Int32(IN_NONBLOCK))
    }
    try loop.onReadable(inotify.rawValue) { [unowned self] in receive() }
  }

  /// Ends it; on the loop.
  public func close() {
    loop.stopReading(inotify.rawValue)
    try? inotify.close()
  }

  /// Watches these directories, or where they would come into being. To be
  /// called again after each change, before what is there is looked at.
  public func watch(_ paths: [String]) {
    var wanted: [Int32: Watched] = [:]
    for path in paths {
      var components = path.split(separator: "/").map(String.init)
      var missing: String?
      while true {
        let place = "/" + components.joined(separator: "/")
        let number = inotify_add_watch(inotify.rawValue, place, Self.mask)
        if number >= 0 {
          if let missing {
            wanted[number, default: Watched()].awaits.insert(missing)
          } else {
            wanted[number, default: Watched()].hasModules = true
          }
          break
        }
        guard let last = components.popLast() else { break }
        missing = last
      }
    }
    for number in watched.keys where wanted[number] == nil {
      inotify_rm_watch(inotify.rawValue, number)
    }
    watched = wanted
  }

  /// A file that is being written tells when it is closed, not before.
  private static let mask =
    UInt32(
      IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF
        | IN_MOVE_SELF | IN_CREATE)
    | UInt32(IN_ONLYDIR) | UInt32(IN_DONT_FOLLOW)

  private func receive() {
    var matters = false
    withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 8) { buffer in
      while case let count = read(inotify.rawValue, buffer.baseAddress, buffer.count), count > 0 {
        var offset = 0
        let header = MemoryLayout<inotify_event>.size
        while offset + header <= count {
          let event = buffer.loadUnaligned(fromByteOffset: offset, as: inotify_event.self)
          let end = min(count, offset + header + Int(event.len))
          let name = String(
            decoding: buffer[(offset + header)..<end].prefix { $0 != 0 }, as: UTF8.self)
          matters = matters || self.matters(event, name)
          offset = end
        }
      }
    }
    if matters { changed() }
  }

  private func matters(_ event: inotify_event, _ name: String) -> Bool {
    // Events were lost: everything may have changed.
    if event.mask & UInt32(IN_Q_OVERFLOW) != 0 { return true }
    guard let place = watched[event.wd] else { return false }
    if name.isEmpty { return true }
    if place.awaits.contains(name) { return true }
    return place.hasModules && event.mask & UInt32(IN_CREATE) == 0 && ModuleFile.isName(name)
  }
}
