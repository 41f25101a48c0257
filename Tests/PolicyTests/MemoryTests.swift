import XCTest

@testable import Kernel

/// What is read about the machine's memory.
final class MemoryTests: XCTestCase {
  func testPagesThatAreForNoBuffers() {
    let zones = """
      Node 0, zone    DMA32
        per-node stats
            nr_inactive_anon 12
        pages free     772917
              low      5000
              high     6662
              managed  772917
              protection: (0, 0, 21083, 21083, 21083)
        pagesets
          cpu: 0
                    high:  14
      Node 0, zone   Normal
        pages free     1710877
              high     18645
              managed  2162688
      Node 0, zone  Movable
        pages free     0
              high     32
              managed  4096
      """
    XCTAssertEqual(Memory.pagesKept(zones: zones), 6662 + 18645 + 4096)
    XCTAssertEqual(Memory.pagesKept(zones: ""), 0)
    XCTAssertEqual(Memory.pagesKept(zones: "Node\nhigh\nhigh x\n\n managed 5"), 0)
  }

  func testBufferPagesAreNearlyAllPages() {
    let pages = Memory.total / Memory.pageSize
    XCTAssertLessThan(Memory.bufferPages, pages)
    XCTAssertGreaterThan(Memory.bufferPages, pages / 2)
  }
}
