import Glibc

/// Numbers in the text files of /proc.
enum TextFile {
  /// The first number after the first `label` in the file; nil when there is
  /// none, or no such file.
  static func number(after label: String, in path: String) -> Int64? {
    read(path).flatMap { number(after: label, text: $0) }
  }

  static func number(after label: String, text: String) -> Int64? {
    var words = text.split(whereSeparator: \.isWhitespace).drop { $0 != label }.dropFirst()
    return words.popFirst().flatMap { Int64($0) }
  }

  /// The first 8 KiB of a file.
  private static func read(_ path: String) -> String? {
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    return withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 8192) { buffer in
      let count = Glibc.read(fd, buffer.baseAddress, buffer.count)
      return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
    }
  }
}

/// What the kernel counts of TCP sockets, of all namespaces together.
public enum TCPSockets {
  /// Sockets that no process holds any more, but that are not finished.
  public static func orphans() -> Int64? {
    TextFile.number(after: "orphan", in: "/proc/net/sockstat")
  }
}
