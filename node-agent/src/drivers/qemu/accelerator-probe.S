# What a virtual machine must do before KVM is trusted with slices. Reaching long mode is not enough: a nested KVM that
# emulates its guests one instruction at a time runs a boot sector and gets to long mode in 70 ms, and then needs minutes
# for a kernel that plain emulation boots in three seconds (measured: 1.7 million instructions a second). So the probe does
# what a kernel does first (protected mode, page tables, long mode, CPUID, a page fault, timer interrupts), and then 180
# million instructions of work: 30 ms on a processor, 300 ms in TCG, minutes on a KVM that is not worth its name.
#
# It is a firmware image: the processor starts at the reset vector, 16 bytes below the end of a 64 KiB ROM, and jumps to
# its start. The descriptors have their "accessed" bits set: the processor would write them, and this is ROM.
# It ends by writing 0x2A to QEMU's isa-debug-exit device. Assembled into accelerator-probe.ts with:
#   as accelerator-probe.S -o probe.o && objcopy -O binary -j .text probe.o probe.bin && base64 -w0 probe.bin

# Memory: 0x1000 PML4, 0x2000 PDPT, 0x3000 and 0x4000 page directories (2 MiB pages), 0x5000 IDT, stack below 0x200000.
.set IDT, 0x5000
# Its page, uncached, is the 503rd of the fourth gigabyte.
.set APIC, 0xFEE00000
.set MARKED_MISSING, 0x1000000
.set WORK, 0x200000
.set WORK_QWORDS, 0x100000
.set WORK_ROUNDS, 60000000
.set TICKS, 5

.code16
start:
  cli
  mov %cs, %ax
  mov %ax, %ds
  lgdtl %cs:gdtr - start
  mov %cr0, %eax
  or $1, %al
  mov %eax, %cr0
  ljmpl $0x08, $(0xF0000 + protected - start)

.code32
protected:
  mov $0x10, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  mov $0x1000, %edi
  xor %eax, %eax
  mov $0x1400, %ecx
  rep stosl
  movl $0x2003, 0x1000
  movl $0x3003, 0x2000
  movl $0x4003, 0x2000 + 3 * 8
  movl $0xFEE00093, 0x4000 + 503 * 8
  # Sixteen megabytes, one to one; the page behind them is left out and faults.
  mov $0x3000, %edi
  mov $0x83, %eax
  mov $8, %ecx
1:
  mov %eax, (%edi)
  add $0x200000, %eax
  add $8, %edi
  loop 1b
  mov %cr4, %eax
  or $0x20, %eax
  mov %eax, %cr4
  mov $0x1000, %eax
  mov %eax, %cr3
  mov $0xC0000080, %ecx
  rdmsr
  or $0x100, %eax
  wrmsr
  mov %cr0, %eax
  or $0x80000000, %eax
  mov %eax, %cr0
  ljmp $0x18, $(0xF0000 + long - start)

.code64
long:
  mov $0x10, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  mov $0x1F0000, %rsp
  xor %eax, %eax
  cpuid
  rdtsc
  # Interrupt gates for the page fault (14) and the timer (32).
  mov $(0xF0000 + page_fault - start), %eax
  mov $(IDT + 14 * 16), %edi
  call set_gate
  mov $(0xF0000 + timer - start), %eax
  mov $(IDT + 32 * 16), %edi
  call set_gate
  lidt 0xF0000 + idtr - start

  movq $0x2A, MARKED_MISSING
  cmpq $0x2A, MARKED_MISSING
  jne fail

  # The local APIC's timer, one interrupt a millisecond.
  mov $APIC, %ebx
  movl $0x1FF, 0xF0(%rbx)
  movl $0xB, 0x3E0(%rbx)
  movl $0x20020, 0x320(%rbx)
  movl $1000000, 0x380(%rbx)
  xor %r15d, %r15d
2:
  sti
  hlt
  cli
  cmp $TICKS, %r15d
  jb 2b

  # Work on memory, then on registers.
  mov $WORK, %edi
  mov $WORK_QWORDS, %ecx
  mov $0x5A5A5A5A5A5A5A5A, %rax
  rep stosq
  mov $WORK, %esi
  mov $WORK_QWORDS, %ecx
  xor %edx, %edx
3:
  add (%rsi), %rdx
  mov %rdx, (%rsi)
  add $8, %rsi
  dec %ecx
  jnz 3b
  mov $WORK_ROUNDS, %ecx
4:
  add %rcx, %rdx
  dec %ecx
  jnz 4b

  mov $0x2A, %al
  mov $0x501, %dx
  outb %al, %dx
fail:
  cli
  hlt
  jmp fail

# Handler %eax into the gate at %edi.
set_gate:
  movw %ax, (%rdi)
  movw $0x18, 2(%rdi)
  movw $0x8E00, 4(%rdi)
  shr $16, %eax
  movl %eax, 6(%rdi)
  ret

page_fault:
  add $8, %rsp
  movl $(MARKED_MISSING | 0x83), 0x3000 + 8 * (MARKED_MISSING / 0x200000)
  invlpg MARKED_MISSING
  iretq

timer:
  inc %r15d
  movl $0, 0xB0(%rbx)
  iretq

.align 8
gdt:
  .quad 0
  .quad 0x00CF9B000000FFFF
  .quad 0x00CF93000000FFFF
  .quad 0x00AF9B000000FFFF
gdtr:
  .word 31
  .long 0xF0000 + gdt - start
idtr:
  .word 33 * 16 - 1
  .quad IDT
