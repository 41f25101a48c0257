import Glibc

/// Which process has a socket open.
public enum SocketOwner {
  /// The lowest process id that holds the socket with this inode number; 0 when
  /// none does. Looks only when the calling thread is in the network namespace
  /// with that inode number, and returns 0 elsewhere. Reads the descriptors of
  /// every process: a millisecond for each fifty or so.
  public static func find(
    inode: Int64, inNamespace namespace: UInt32
  ) throws(SystemCallFailure) -> Int64 {
    guard inode > 0, link("/proc/thread-self/ns/net") == "net:[\(namespace)]" else { return 0 }
    let wanted = "socket:[\(inode)]"
    guard let processes = opendir("/proc") else { throw SystemCallFailure("read", "/proc") }
    defer { closedir(processes) }
    var lowest: Int64 = 0
    while let pid = next(processes) {
      guard lowest == 0 || pid < lowest, let descriptors = opendir("/proc/\(pid)/fd") else {
        continue
      }
      defer { closedir(descriptors) }
      while let fd = next(descriptors) {
        if link("/proc/\(pid)/fd/\(fd)") == wanted {
          lowest = pid
          break
        }
      }
    }
    return lowest
  }

  /// The next entry that is a number.
  private static func next(_ directory: OpaquePointer) -> Int64? {
    while let entry = readdir(directory) {
      let number = withUnsafeBytes(of: entry.pointee.d_name) { name in
        Int64(String(decoding: name.prefix { $0 != 0 }, as: UTF8.self))
      }
      if let number { return number }
    }
    return nil
  }

  private static func link(_ path: String) -> String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
      guard let base = buffer.baseAddress else { return "" }
      let count = readlink(path, base, buffer.count)
      return count > 0
        ? String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self) : ""
    }
  }
}
