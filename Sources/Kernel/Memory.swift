import CShims
import Glibc

/// The machine's memory.
public enum Memory {
  /// Bytes in a page.
  public static let pageSize = Int64(sysconf(Int32(_SC_PAGESIZE)))

  /// Bytes that are free or in buffers: a low estimate of what can be had
  /// without reclaiming (sysinfo(2): it costs a microsecond, where
  /// /proc/meminfo costs a hundred).
  public static func free() -> Int64 {
    var info = sysinfo()
    guard sysinfo(&info) == 0 else { return 0 }
    return Int64(info.freeram + info.bufferram) * Int64(info.mem_unit)
  }

  /// Bytes of the process that are resident, and of those the ones that no file
  /// backs (/proc/self/statm; the kernel's counters lag by some pages a thread).
  public static func own() -> (anonymous: Int64, resident: Int64) {
    guard let bytes = try? contents(of: "/proc/self/statm", limit: 256) else { return (0, 0) }
    let pages = String(decoding: bytes, as: UTF8.self).split(separator: " ").map { Int64($0) ?? 0 }
    guard pages.count > 2 else { return (0, 0) }
    return ((pages[1] - pages[2]) * pageSize, pages[1] * pageSize)
  }

  /// Bytes that the kernel can address directly, which are all of them on 64-bit
  /// machines.
  public static let total: Int64 = {
    var info = sysinfo()
    guard sysinfo(&info) == 0 else { return 0 }
    return Int64(info.totalram - info.totalhigh) * Int64(info.mem_unit)
  }()

  /// Pages in which the kernel may keep buffers: all but those below the high
  /// watermarks and those of movable zones (`nr_free_buffer_pages` in
  /// mm/page_alloc.c, of which `tcp_init_mem` in net/ipv4/tcp.c takes shares for
  /// `tcp_mem`).
  public static let bufferPages: Int64 = {
    let bytes = (try? contents(of: "/proc/zoneinfo", limit: 16 << 20)) ?? []
    let pages = total / pageSize
    return max(pages - pagesKept(zones: String(decoding: bytes, as: UTF8.self)), pages / 32)
  }()

  /// Pages that are for no buffers, by the text of /proc/zoneinfo. What its other
  /// zones are said to manage is not relied on: it has been seen to fall far short
  /// of what there is.
  static func pagesKept(zones text: String) -> Int64 {
    var kept: Int64 = 0
    var isMovable = false
    for line in text.split(separator: "\n") {
      let words = line.split(separator: " ")
      if words.first == "Node" {
        isMovable = words.last == "Movable"
      } else if words.count == 2, let number = Int64(words[1]),
        words[0] == (isMovable ? "managed" : "high")
      {
        kept += number
      }
    }
    return kept
  }

  /// Bytes that can be had, with what the page cache would give up
  /// (`MemAvailable` of /proc/meminfo); nil where it cannot be read.
  public static func available() -> Int64? {
    TextFile.number(after: "MemAvailable:", in: "/proc/meminfo").map { $0 * 1024 }
  }

  /// Gives the kernel back what the process has freed. Loading BPF programs
  /// takes ten megabytes of type information for a moment.
  public static func giveBackFreed() { malloc_trim(0) }
}
