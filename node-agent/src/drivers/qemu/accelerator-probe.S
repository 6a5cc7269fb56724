# What a virtual machine must be able to do before KVM is trusted: leave the reset vector, enter protected mode, build page
# tables, enter long mode, run CPUID and RDTSC, write and read memory, and say 0x2A to QEMU's isa-debug-exit device.
# A nested KVM that is dead hangs or aborts on the way; one that works takes a few milliseconds.
#
# Assembled into accelerator-probe.ts with:
#   as accelerator-probe.S -o probe.o && objcopy -O binary -j .text probe.o probe.bin && base64 -w0 probe.bin
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
  mov $0xC00, %ecx
  rep stosl
  movl $0x2003, 0x1000
  movl $0x3003, 0x2000
  movl $0x000083, 0x3000
  movl $0x200083, 0x3008
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
  mov $0x200000, %rsp
  xor %eax, %eax
  cpuid
  rdtsc
  mov $0x100000, %rdi
  mov $0x5A5A5A5A5A5A5A5A, %rax
  mov $0x8000, %ecx
  rep stosq
  cmp %rax, -8(%rdi)
  jne fail
  mov $0x2A, %al
  mov $0x501, %dx
  outb %al, %dx
fail:
  hlt
  jmp fail
.align 8
gdt:
  .quad 0
  .quad 0x00CF9A000000FFFF
  .quad 0x00CF92000000FFFF
  .quad 0x00AF9A000000FFFF
gdtr:
  .word 31
  .long 0xF0000 + gdt - start
