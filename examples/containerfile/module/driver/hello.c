// SPDX-License-Identifier: Apache-2.0
// The smallest module: it says a word when it is loaded.
#include <linux/init.h>
#include <linux/module.h>

static int __init hello_begin(void)
{
	pr_info("hello: built out of the kernel's tree\n");
	return 0;
}

static void __exit hello_end(void)
{
}

module_init(hello_begin);
module_exit(hello_end);
MODULE_LICENSE("GPL");
