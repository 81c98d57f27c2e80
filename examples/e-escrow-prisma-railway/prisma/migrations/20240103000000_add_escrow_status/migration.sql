-- CreateEnum
CREATE TYPE "EscrowStatus" AS ENUM ('CREATED', 'ACTIVE', 'RELEASED', 'DISPUTED');

-- AlterTable
ALTER TABLE "escrows" ADD COLUMN     "status" "EscrowStatus" NOT NULL DEFAULT 'CREATED';

-- CreateIndex
CREATE INDEX "escrows_status_idx" ON "escrows"("status");
